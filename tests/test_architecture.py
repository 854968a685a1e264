"""The house's rules that a machine can hold: star-shaped imports, one reader of the environment, names, sizes, light borders.

Each rule is a function from source text to violations, and is itself tested on a violation: it cannot pass by seeing nothing.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest

from adapters.base import AnswerEvent, AnswerStatus
from adapters.surface import Control
from model_server.types import FinishReason, Role, StreamEvent
from tests.conftest import TOGETHER

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bot", "adapters", "model_server")
ALLOWED_IMPORTS = {"bot": {"bot", "adapters", "model_server"}, "adapters": {"adapters"}, "model_server": {"model_server"}}
READS_ENVIRONMENT = "bot/config.py"
MAX_LINES = 400
BANNED_MODULES = {"utils", "util", "helpers", "helper", "common", "misc"}
UNIONS = [{member.__name__ for member in get_args(union)} for union in (AnswerEvent, StreamEvent)]
ENUMS = {enum.__name__ for enum in (AnswerStatus, Control, FinishReason, Role)}
HEAVY = {"torch", "transformers", "discord", "slack_bolt", "slack_sdk", "bitsandbytes", "asyncpg"}

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LOOPBACKS = sorted((ROOT / "tests" / "loopbacks").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=SOURCES, ids=name_of)
def source(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def imported_modules(text: str, path: str) -> Iterator[str]:
    """Absolute names of all modules that the file at `path` (relative to the root) imports, anywhere in it and in any way."""
    folders = path.split("/")[:-1]  # the package of a module and of an __init__.py alike
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(level=0):
                yield node.module or ""
            case ast.ImportFrom(level=level):
                above = folders[: len(folders) - (level - 1)]
                if above or node.module:
                    yield ".".join([*above, *([node.module] if node.module else [])])
                else:
                    yield from (alias.name for alias in node.names)
            case ast.Call(func=ast.Name(id=function) | ast.Attribute(attr=function), args=[ast.Constant(value=str(name)), *_]) if (
                function in {"import_module", "__import__", "find_spec", "run_module", "resolve_name"}
            ):
                yield ".".join([*folders, name.lstrip(".")]) if name.startswith(".") else name


def foreign_imports(text: str, path: str) -> list[str]:
    own = path.split("/")[0]
    ours = {*PACKAGES, "tests"}
    return [
        name for name in imported_modules(text, path) if (top := name.split(".")[0]) in ours and top not in ALLOWED_IMPORTS[own]
    ]


def imports_within(text: str, path: str, modules: Collection[str]) -> set[str]:
    """Which of these modules the file at `path` imports, also for types alone (`if TYPE_CHECKING`) or within a function."""
    found = set(imported_modules(text, path))
    folders = path.split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):  # what is imported from a package may be a module of it
            above = folders[: len(folders) - (node.level - 1)] if node.level else []
            package = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{package}.{alias.name}" for alias in node.names}
    return found & set(modules)


def import_circles(texts: Mapping[str, str]) -> list[set[str]]:
    """The sets of modules that import each other in a circle. `texts`: by paths relative to the root."""
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in texts}
    imports = {name: imports_within(texts[path], path, names) - {name} for name, path in names.items()}
    reached: dict[str, set[str]] = {}
    for name in names:
        seen: set[str] = set()
        todo = [name]
        while todo:
            new = imports[todo.pop()] - seen
            seen |= new
            todo += new
        reached[name] = seen
    circles = {frozenset({name} | {other for other in reached[name] if name in reached[other]}) for name in names}
    return sorted((set(circle) for circle in circles if len(circle) > 1), key=sorted)


def loopback_imports(text: str, path: str) -> list[str]:
    """What a loopback platform takes from us. It is judged by the platforms' rules alone, so its code knows nothing of the bot."""
    allowed = "tests" if path.rpartition("/")[2].startswith("test_") else "tests.loopbacks"
    ours = [name for name in imported_modules(text, path) if name.split(".")[0] in {*PACKAGES, "tests"}]
    return [name for name in ours if f"{name}.".removeprefix(f"{allowed}.") == f"{name}."]


def environment_reads(text: str) -> list[int]:
    """Line numbers where the environment is touched: through os, by a name taken out of os, or through a settings library."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    libraries = {"pydantic_settings", "dotenv"}
    lines = []
    tree = ast.parse(text)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in {"os", "posix"}
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=attribute) if module in aliases and attribute in names:
                lines.append(node.lineno)
            case ast.ImportFrom(module="os" | "posix", names=imported) if any(alias.name in {*names, "*"} for alias in imported):
                lines.append(node.lineno)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in libraries:
                lines.append(node.lineno)
            case ast.Import(names=imported) if any(alias.name.split(".")[0] in libraries for alias in imported):
                lines.append(node.lineno)
    return lines


def manager_classes(text: str) -> list[str]:
    return [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef) and "manager" in node.name.lower()]


def silent_choices(text: str) -> list[int]:
    """Line numbers where somebody chooses between events, or by an enum, and would pass over a new member without a word.

    Such a choice ends in `assert_never`, which makes a new member a type error. One `isinstance` alone is no choice.
    """
    tree = ast.parse(text)
    followers = {node.orelse[0] for node in ast.walk(tree) if isinstance(node, ast.If) and len(node.orelse) == 1}
    lines = []
    for node in ast.walk(tree):
        match node:
            case ast.Match(cases=[*_, last]):
                patterns = [part for case in node.cases for part in ast.walk(case.pattern)]
                names = {part.cls.id for part in patterns if isinstance(part, ast.MatchClass) and isinstance(part.cls, ast.Name)}
                values = [part.value for part in patterns if isinstance(part, ast.MatchValue)]
                is_choice = any(names & union for union in UNIONS) or any(map(_is_of_enum, values))
                if is_choice and not _is_never(last.body):
                    lines.append(node.lineno)
            case ast.If() if node not in followers:
                tests, otherwise = [node.test], node.orelse
                while len(otherwise) == 1 and isinstance(otherwise[0], ast.If):
                    tests, otherwise = [*tests, otherwise[0].test], otherwise[0].orelse
                classes = {
                    part.id for test in tests if _is_isinstance(test) for part in ast.walk(test) if isinstance(part, ast.Name)
                }
                if any(len(classes & union) > 1 for union in UNIONS) and len(tests) > 1 and not _is_never(otherwise):
                    lines.append(node.lineno)
    return lines


def _is_of_enum(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ENUMS


def _is_isinstance(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"


def _is_never(body: list[ast.stmt]) -> bool:
    match body:
        case [ast.Expr(value=ast.Call(func=ast.Name(id="assert_never")))]:
            return True
    return False


def test_all_three_packages_are_looked_at() -> None:
    assert {name_of(path).split("/")[0] for path in SOURCES} == set(PACKAGES)


def test_imports_are_a_star(source: Path) -> None:
    assert foreign_imports(source.read_text("utf-8"), name_of(source)) == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("adapters/web.py", "import model_server.types", ["model_server.types"]),
        ("adapters/web.py", "from model_server import types", ["model_server"]),
        ("adapters/web/app.py", "def f():\n    from bot.chats import Chat", ["bot.chats"]),
        ("model_server/loop.py", "import importlib\nimportlib.import_module('adapters.base')", ["adapters.base"]),
        ("model_server/loop.py", "__import__('bot')", ["bot"]),
        ("model_server/loop.py", "from .. import bot", ["bot"]),
        ("model_server/tiny/draw.py", "from ...adapters import base", ["adapters"]),
        ("bot/app.py", "from tests.bot import fakes", ["tests.bot"]),
        ("bot/app.py", "from adapters.base import Answer\nimport model_server", []),
        ("model_server/tiny/draw.py", "from ..types import Image\nfrom . import dialogue\nimport numpy", []),
        ("adapters/web/__init__.py", "from .server import WebAdapter\nfrom ..base import Answer", []),
    ],
)
def test_a_foreign_import_is_seen_however_it_is_written(path: str, text: str, expected: list[str]) -> None:
    assert foreign_imports(text, path) == expected


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_circles({name_of(path): path.read_text("utf-8") for path in SOURCES}) == []


@pytest.mark.parametrize(
    "first",
    [
        "from bot.b import f",
        "from bot import b",
        "from . import b",
        "from .b import f",
        "import bot.b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bot.b import f",
        "def f():\n    import bot.b",
    ],
)
def test_a_circle_is_seen_however_it_is_written(first: str) -> None:
    texts = {
        "bot/__init__.py": "",
        "bot/a.py": first,
        "bot/b.py": "from bot.c import f",
        "bot/c.py": "import bot.a",
        "bot/d.py": "",
    }
    assert import_circles(texts) == [{"bot.a", "bot.b", "bot.c"}]
    assert import_circles({**texts, "bot/c.py": "from bot import d"}) == []


def test_a_package_that_imports_its_module_is_no_circle() -> None:
    package = {"bot/p/__init__.py": "from bot.p.a import f", "bot/p/a.py": "from bot.p.b import g", "bot/p/b.py": ""}
    assert import_circles(package) == []
    assert import_circles({**package, "bot/p/b.py": "from bot.p import f"}) == [{"bot.p", "bot.p.a", "bot.p.b"}]


@pytest.mark.parametrize("path", LOOPBACKS, ids=name_of)
def test_loopback_platforms_know_nothing_of_the_bot(path: Path) -> None:
    assert loopback_imports(path.read_text("utf-8"), name_of(path)) == []


def test_loopback_platforms_are_looked_at() -> None:
    names = {name_of(path) for path in LOOPBACKS}
    assert {f"tests/loopbacks/{name}/server.py" for name in ("discord", "slack")} <= names


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("tests/loopbacks/slack/state.py", "from adapters.slack import markup", ["adapters.slack"]),
        ("tests/loopbacks/slack/state.py", "import bot.config\nimport model_server.types", ["bot.config", "model_server.types"]),
        ("tests/loopbacks/slack/state.py", "from tests.images import red_circle", ["tests.images"]),
        ("tests/loopbacks/slack/state.py", "from tests import loopbacks", ["tests"]),
        ("tests/loopbacks/slack/state.py", "from ... import images", ["tests"]),
        ("tests/loopbacks/slack/state.py", "from tests.loopbacks_of_ours import x", ["tests.loopbacks_of_ours"]),
        ("tests/loopbacks/slack/state.py", "from tests.loopbacks.slack.files import File\nfrom . import files\nimport aiohttp", []),
        ("tests/loopbacks/slack/test_x.py", "from tests.images import red_circle", []),
        ("tests/loopbacks/slack/test_x.py", "from adapters.base import Answer", ["adapters.base"]),
    ],
)
def test_what_a_loopback_takes_from_us_is_seen(path: str, text: str, expected: list[str]) -> None:
    assert loopback_imports(text, path) == expected


def test_only_the_configuration_reads_the_environment(source: Path) -> None:
    if name_of(source) == READS_ENVIRONMENT:
        assert environment_reads(source.read_text("utf-8")) != []
    else:
        assert environment_reads(source.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.environ['X'] = '1'",
        "import os as system\nsystem.getenv('X')",
        "from os import environ",
        "from os import path, getenv as read",
        "import dotenv",
        "from pydantic_settings import BaseSettings",
    ],
)
def test_a_look_at_the_environment_is_seen_however_it_is_written(text: str) -> None:
    assert environment_reads(text) != []


def test_other_uses_of_os_are_fine() -> None:
    assert environment_reads("import os\nfrom os import path\nos.replace('a', 'b')\nclass A:\n    environ = 1\nA.environ") == []


def test_file_is_read_in_one_sitting(source: Path) -> None:
    assert len(source.read_text("utf-8").splitlines()) <= MAX_LINES


def test_module_has_a_name_that_says_something(source: Path) -> None:
    assert not BANNED_MODULES & {part.lstrip("_") for part in (*source.relative_to(ROOT).parts[:-1], source.stem)}


def test_no_class_is_a_manager(source: Path) -> None:
    assert manager_classes(source.read_text("utf-8")) == []


def test_a_manager_is_seen() -> None:
    assert manager_classes("def f():\n    class ChatManager: ...") == ["ChatManager"]


def test_module_says_what_its_rule_is(source: Path) -> None:
    text = source.read_text("utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_folders_of_tests_have_no_package_file() -> None:
    """tests/bot/__init__.py would shadow the package `bot`."""
    assert [name_of(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_tests_that_stay_together_are_there() -> None:
    """A pattern that matches nothing would let a costly thing be made once per process."""
    ids = [f"{name_of(path)}::test_a_" for path in (ROOT / "tests").rglob("test_*.py")] + ["::test_a_[postgresql]"]
    assert [name for name, pattern in TOGETHER.items() if not any(re.search(pattern, id_) for id_ in ids)] == []


@pytest.mark.parametrize("module", ["model_server.types", "model_server.errors", "adapters.base", "bot.config"])
def test_borders_load_neither_the_model_nor_a_platform(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=name_of)
def test_a_new_kind_of_event_is_passed_over_by_nobody(path: Path) -> None:
    assert silent_choices(path.read_text("utf-8")) == []


def test_choices_between_events_are_found_where_we_know_of_them() -> None:
    """The test above cannot pass because the events have other names by now."""
    for path in (
        "adapters/conversations/reply.py",
        "adapters/terminal.py",
        "adapters/web/tabs.py",
        "bot/writer.py",
        "model_server/serve/sending.py",
    ):
        text = (ROOT / path).read_text("utf-8").replace("assert_never(never)", "pass")
        assert silent_choices(text) != []


@pytest.mark.parametrize(
    ("text", "is_silent"),
    [
        ("match event:\n    case Notice():\n        pass", True),
        ("match event:\n    case Notice() | Waiting():\n        pass\n    case _:\n        pass", True),
        ("match event:\n    case Delta(text=str(t)) as delta:\n        pass", True),
        ("match ended.status:\n    case AnswerStatus.COMPLETE:\n        pass\n    case _:\n        pass", True),
        ("match event:\n    case Notice():\n        pass\n    case _ as never:\n        assert_never(never)", False),
        ("if isinstance(e, Delta):\n    pass\nelif isinstance(e, Finished):\n    pass", True),
        ("if isinstance(e, Delta):\n    pass\nelif isinstance(e, Finished):\n    pass\nelse:\n    assert_never(e)", False),
        ("if isinstance(e, Finished):\n    pass", False),
        ("match command:\n    case '/new':\n        pass", False),
    ],
)
def test_a_choice_that_passes_over_a_new_member_is_seen(text: str, is_silent: bool) -> None:
    assert bool(silent_choices(text)) is is_silent
