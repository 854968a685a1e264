"""What is installed is what is here: the three import names, the wheel's content, the lock, and texts that name no machine."""

from __future__ import annotations

import ast
import email.parser
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bot", "adapters", "model_server")
CHECKPOINT = "model_server/tiny/checkpoint"
MAX_CHECKPOINT_BYTES = 16_000_000
# torch's CUDA build pins these itself, exactly, and the CPU build has none of them.
PINNED_BY_TORCH = ("nvidia-", "cuda-", "triton")

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
LOCK_LINES = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]


def lock() -> dict[str, Version]:
    pairs = (line.split("==") for line in LOCK_LINES)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def declared_requirements() -> list[Requirement]:
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    lines = (*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"], *extras)
    return [requirement for line in lines if (requirement := Requirement(line)).name != PROJECT["name"]]


def run_python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    env = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", **({"PYTHONPATH": str(path)} if path else {})}
    return run([sys.executable, *arguments], cwd=cwd, env=env)


def run(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def repository_files() -> list[str]:
    """What git knows or would take: not what it ignores."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"], cwd=ROOT)
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


# --- the environment


@pytest.mark.parametrize("package", PACKAGES)
def test_import_name_is_ours(package: str, tmp_path: Path) -> None:
    """The names are generic, so another distribution could own them: seen from elsewhere, they must lead here."""
    origin = run_python("-c", f"import importlib.util; print(importlib.util.find_spec({package!r}).origin)", cwd=tmp_path).strip()
    assert Path(origin) == ROOT / package / "__init__.py"


def test_no_other_distribution_brings_our_import_names() -> None:
    owners = importlib.metadata.packages_distributions()
    assert [name for package in PACKAGES for name in owners.get(package, []) if name != PROJECT["name"]] == []


def test_console_script_is_the_program(tmp_path: Path) -> None:
    [script] = importlib.metadata.entry_points(group="console_scripts", name="threadsight")
    assert script.value == "bot.cli:main"
    assert PROJECT["version"] in run([str(Path(sys.executable).with_name("threadsight")), "--version"], cwd=tmp_path)


# --- the wheel


def test_wheel_holds_the_three_packages_and_nothing_else(names_in_wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in names_in_wheel}
    assert tops == {*PACKAGES, f"threadsight-{PROJECT['version']}.dist-info"}
    assert not [name for name in names_in_wheel if "__pycache__" in name or "/test_" in name]


def test_wheel_holds_every_file_of_the_packages(names_in_wheel: set[str]) -> None:
    files = {name for name in repository_files() if name.split("/")[0] in PACKAGES}
    assert files == {name for name in names_in_wheel if ".dist-info/" not in name}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_wheel_holds_the_bundled_model(names_in_wheel: set[str], name: str) -> None:
    assert f"{CHECKPOINT}/{name}" in names_in_wheel


def test_wheel_holds_migrations_and_the_page(names_in_wheel: set[str]) -> None:
    assert [name for name in names_in_wheel if name.startswith("bot/migrations/versions/") and name.endswith(".py")]
    assert {".html", ".css", ".js"} <= {Path(name).suffix for name in names_in_wheel if name.startswith("adapters/web/static/")}


def test_wheel_holds_the_license_and_valid_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"threadsight-{PROJECT['version']}.dist-info"
        metadata = Metadata.from_email(archive.read(f"{info}/METADATA"), validate=True)
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        tags = email.parser.BytesParser().parsebytes(archive.read(f"{info}/WHEEL"))
    assert (metadata.name, str(metadata.version), metadata.license_expression) == (PROJECT["name"], PROJECT["version"], "MIT")
    assert set(metadata.provides_extra or []) == set(PROJECT["optional-dependencies"])
    assert "threadsight = bot.cli:main" in scripts
    assert tags["Tag"] == "py3-none-any"


def test_program_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    code = "import bot, adapters, model_server; print(bot.__file__, adapters.__file__, model_server.__file__)"
    places = run_python("-c", code, cwd=tmp_path, path=unpacked).split()
    assert [Path(place) for place in places] == [unpacked / package / "__init__.py" for package in PACKAGES]
    assert PROJECT["version"] in run_python("-m", "bot", "--version", cwd=tmp_path, path=unpacked)


def test_bundled_model_is_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / CHECKPOINT).rglob("*") if path.is_file()]
    assert 0 < sum(sizes) <= MAX_CHECKPOINT_BYTES


# --- the lock


@pytest.mark.parametrize("line", LOCK_LINES)
def test_lock_line_is_one_exact_public_version(line: str) -> None:
    """No local version (`+cpu`), no file, no address, no marker: the same line must serve a machine with a GPU and one without."""
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!]*", line)


@pytest.mark.parametrize("requirement", declared_requirements(), ids=str)
def test_lock_pins_what_pyproject_names(requirement: Requirement) -> None:
    assert lock()[canonicalize_name(requirement.name)] in requirement.specifier


def required_distributions() -> Iterator[str]:
    """Names of everything that `threadsight` with all its extras needs in this environment, directly or not."""
    todo = [(PROJECT["name"], frozenset(PROJECT["optional-dependencies"]))]
    done: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        yield name
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            environments = [{**default_environment(), "extra": extra} for extra in (*extras, "")]
            if requirement.marker is None or any(requirement.marker.evaluate(environment) for environment in environments):
                todo.append((str(canonicalize_name(requirement.name)), frozenset(requirement.extras)))


def test_lock_pins_everything_that_is_needed_and_it_is_installed_so() -> None:
    pinned = lock()
    names = {name for name in required_distributions() if not name.startswith(PINNED_BY_TORCH)} - {PROJECT["name"]}
    assert sorted(names - set(pinned)) == []
    installed = {name: Version(Version(importlib.metadata.version(name)).public) for name in names}
    assert {name: version for name, version in installed.items() if version != pinned[name]} == {}


def test_transformers_stays_on_one_minor_version() -> None:
    [requirement] = [requirement for requirement in declared_requirements() if requirement.name == "transformers"]
    release = lock()["transformers"].release
    assert f"{release[0]}.{release[1]}.99" in requirement.specifier
    assert f"{release[0]}.{release[1] + 1}.0" not in requirement.specifier


def imported_distributions(text: str, owners: Mapping[str, list[str]]) -> set[str]:
    """Names of the distributions that the modules imported in `text` come from; the standard library and our own left out."""
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module)
    tops = {module.split(".")[0] for module in modules} - {*PACKAGES, "tests"} - sys.stdlib_module_names
    return {canonicalize_name(owners[top][0]) if top in owners else top for top in tops}


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_what_is_imported_is_declared(package: str) -> None:
    """Not merely installed because something else wants it. Tests may use the dev extra too, the platforms' adapters theirs.

    The clients that `make clients` tries have environments of their own."""
    extras = PROJECT["optional-dependencies"]
    allowed = [extra for extra in extras if extra != "dev" or package == "tests"]
    lines = [*PROJECT["dependencies"], *(line for extra in allowed for line in extras[extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    owners = importlib.metadata.packages_distributions()
    missing = {}
    for name in repository_files():
        if name.startswith(f"{package}/") and name.endswith(".py") and not name.startswith("tests/field/client_programs/"):
            undeclared = imported_distributions((ROOT / name).read_text("utf-8"), owners) - declared
            if undeclared:
                missing[name] = sorted(undeclared)
    assert missing == {}


def test_an_undeclared_import_is_seen() -> None:
    text = "import os\nfrom yarl import URL\nfrom PIL.Image import open\nfrom bot import app\ndef f():\n    import nowhere.at_all"
    assert imported_distributions(text, {"yarl": ["yarl"], "PIL": ["Pillow"]}) == {"yarl", "pillow", "nowhere"}


# --- the texts


def test_no_text_names_a_registry_or_a_machine() -> None:
    # Written in two parts, so that this file does not name them either.
    parts = [("pypi", "org"), ("pythonhosted", "org"), ("registry", "npmjs"), ("deb", "debian"), ("download", "pytorch")]
    hosts = [".".join(pair) for pair in parts]
    places = ["/".join(parts) for parts in [("", "work", "main"), ("", "opt", "wheels"), ("", "opt", "pypi"), ("", "root", "")]]
    found = []
    for name in repository_files():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            found += [(name, text) for text in (*hosts, *places) if text.encode() in content]
    assert found == []
