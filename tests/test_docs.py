"""What the documents say is so: names of files and code, settings, commands, make targets, links, and the changelog's form."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from datetime import date
from functools import cache
from pathlib import Path

import pytest
from packaging.version import Version

from bot.config import variables

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = "docs/writing-an-adapter.md"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
OF_THE_TUTORIAL = "adapters/whiteboard"  # what it builds; tests/bot/test_adapter_tutorial.py looks at that
FOLDERS = ("bot", "adapters", "model_server", "tests")
VARIABLES = [variable.name for variable in variables()]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def code_of(markdown: str) -> str:
    """The text of all code in a document: fenced, indented by four, and between backticks; the rest is prose."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    without = re.sub(r"^```[^\n]*\n.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", without, re.MULTILINE)
    return "\n".join([*fenced, *indented, *re.findall(r"`([^`\n]+)`", without)])


def anchors_of(markdown: str) -> set[str]:
    """The anchors that a forge gives to headings: lower case, punctuation dropped, spaces to hyphens."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(markdown: str) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", prose)
    reference = re.findall(r"^\[[^\]]+\]:\s+(\S+)", prose, re.MULTILINE)
    html = re.findall(r"(?:src|srcset|href)=\"([^\"\s]+)\"", prose)
    return [link for link in (*inline, *reference, *html) if not re.match(r"[a-z][a-z0-9+.-]*:", link)]


# --- settings


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("document", [".env.example", "README.md"])
def test_setting_is_documented(document: str, variable: str) -> None:
    assert re.search(rf"(?<![A-Z_]){variable}(?![A-Z_])", read(document))


@pytest.mark.parametrize("document", [".env.example", *DOCUMENTS, "Dockerfile"])
def test_documents_name_only_settings_that_exist(document: str) -> None:
    named = set(re.findall(r"(?<![A-Z_])(?:THREADSIGHT|DISCORD|SLACK)_[A-Z_]*[A-Z](?![A-Z_])", read(document)))
    if document == TUTORIAL:
        named = {name for name in named if not name.startswith("THREADSIGHT_WHITEBOARD_")}
    assert named - set(VARIABLES) == set()


# --- commands


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_in_documents_exist(document: str) -> None:
    named = set(re.findall(r"(?:^|[\s;&|])make +([a-z][a-z-]*)", code_of(read(document)), re.MULTILINE))
    assert named or document not in ("README.md", "CONTRIBUTING.md")
    assert named - make_targets() == set()


def test_readme_shows_the_two_commands() -> None:
    assert {"make run", "make test"} <= set(re.findall(r"make (?:run|test)\b", code_of(read("README.md"))))


def test_every_make_target_is_phony_and_explained() -> None:
    makefile = read("Makefile")
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    explained = set(re.findall(r"^([a-z-]+):.* ## \S", makefile, re.MULTILINE))
    assert make_targets() == set(phony.split()) == explained


def test_commands_in_documents_exist() -> None:
    code = "\n".join(code_of(read(document)) for document in DOCUMENTS)
    commands = set(re.findall(r"(?:^|[\s/])threadsight +([a-z]+)\b", code, re.MULTILINE))
    assert {"run", "chat"} <= commands
    for command in sorted(commands):
        result = subprocess.run(
            [sys.executable, "-m", "bot", command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, f"threadsight {command} --help: {result.stderr}"


# --- names of files and of code


@cache
def files() -> frozenset[str]:
    return frozenset(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@cache
def names_in(path: str) -> frozenset[str]:
    """All identifiers in a file's code, and in the program's own also whole texts, such as a key of JSON; comments do not count."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(read(path))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.alias(name=name):
                names.add(name.split(".")[-1])
            case ast.Constant(value=str(text)) if not path.startswith("tests/"):
                names.add(text)
    return frozenset(names)


@cache
def all_names() -> frozenset[str]:
    return frozenset(name for path in files() for name in (*names_in(path), *path.removesuffix(".py").split("/"))) | set(VARIABLES)


def unknown_names(markdown: str) -> list[str]:
    """What a document names and the tree does not have.

    A path of ours, anywhere outside of fenced code, has to exist; a file's name alone, between backticks, somewhere in the tree.
    What is between backticks and looks like an identifier (Capital, CamelCase, CAPITALS, with an underscore, or dotted) has to be
    one in our code or in the document's own. Where it is said of which file, it has to be one in that file: `Post`
    (`adapters/post.py`), or with "in" between them, or in an indented line with the path.
    """
    fence = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    prose, shown = fence.sub("", markdown), set(re.findall(r"[A-Za-z_]\w*", "".join(fence.findall(markdown))))
    unknown = [
        path
        for path in re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", prose)
        if not (ROOT / path).exists() and not path.startswith(OF_THE_TUTORIAL)
    ]
    for word in re.findall(r"`([\w.]+)(?:\(\))?`", prose):
        if word.endswith(".py"):
            is_known = any(f"/{path}".endswith(f"/{word}") for path in files())
        elif re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", word) and re.search(
            r"[a-z][A-Z]|\w[_.]\w|^[A-Z][a-z]+$|^[A-Z]{3,}$", word
        ):
            is_known = word in ("pyproject.toml", "constraints.txt") or set(word.split(".")) <= all_names() | shown
        else:
            is_known = True
        if not is_known:
            unknown.append(word)
    for name, path in re.findall(r"`(\w+)`(?:,? (?:is |are )?in |,? \()`([\w/]+\.py)`", prose):
        if path in files() and name not in names_in(path):
            unknown.append(f"{name} in {path}")
    for line in re.findall(r"^ {4}(.*\.py.*)$", prose, re.MULTILINE):
        paths = [path for path in re.findall(r"[\w/]+\.py", line) if path in files()]
        words = re.findall(r"\b(?:[a-z]+_[a-z_]+|[A-Z][a-z]+[A-Z]\w*)\b", re.sub(r"[\w/]+\.py", "", line))
        unknown += [
            f"{word} in {', '.join(paths)}" for word in words if paths and not any(word in names_in(path) for path in paths)
        ]
    return unknown


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_what_exists(document: str) -> None:
    assert set(unknown_names(read(document))) - NOT_OURS == set()


NOT_OURS = {
    "utils.py",  # there is none, and CONTRIBUTING says so
    "PIP_FIND_LINKS",
    "PIP_EXTRA_INDEX_URL",
    "proxy_read_timeout",  # nginx's
}


@pytest.mark.parametrize(
    ("markdown", "unknown"),
    [
        ("`bot/session.py`", ["bot/session.py"]),
        ("    bot/session.py    draws it", ["bot/session.py"]),
        ("    bot/chats.py    one lock per thread: start_new_chat", ["start_new_chat in bot/chats.py"]),
        ("    ThreadChats.handle    bot/chats.py, bot/thread_chats.py", []),
        ("[link](adapters/pigeon)", ["adapters/pigeon"]),
        ("`desk.py` decides", ["desk.py"]),
        ("a `ChatSession` and a `Nobody`", ["ChatSession", "Nobody"]),
        (
            "`begin_chat_anew()`, `Dispatcher.no_such`, `NO_SUCH_THING`",
            ["begin_chat_anew", "Dispatcher.no_such", "NO_SUCH_THING"],
        ),
        ("`start_new_chat` (`bot/chats.py`)", ["start_new_chat in bot/chats.py"]),
        ("`start_new_chat` and `continue_chat` are in `bot/chats.py`", ["continue_chat in bot/chats.py"]),
        (
            "`start_new_chat` (`model_server/chatbot.py`), `Dispatcher.ask`, `dispatcher.py`, `tests/bot`, `generate`, `forget()`",
            [],
        ),
        ("```python\nclass Shown: ...\n```\n`Shown` and `adapters/post.py`", []),
    ],
)
def test_a_name_that_does_not_exist_is_seen(markdown: str, unknown: list[str]) -> None:
    assert unknown_names(markdown) == unknown


# --- links


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_relative_links_lead_somewhere(document: str) -> None:
    broken = []
    for link in links_of(read(document)):
        name, _, anchor = link.partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target.read_text("utf-8"))):
            broken.append(link)
    assert broken == []


def test_links_are_seen_in_every_form() -> None:
    text = (
        '[a](one.md) ![b](two.png "title")\n<img src="three.png">\n[c]: four.md#part\n'
        "[d](https://example.com) [e](mailto:a@b.c)\n```\n[no](no.md)\n```\n"
    )
    assert links_of(text) == ["one.md", "two.png", "four.md#part", "three.png"]


def test_readme_has_a_screenshot_with_words_for_it() -> None:
    readme = read("README.md")
    assert re.search(
        r"!\[[^\]]{5,}\]\([^)]+\.(?:png|webp)\)|<img(?=[^>]*alt=\"[^\"]{5,}\")[^>]*src=\"[^\"]+\.(?:png|webp)\"", readme
    )


# --- changelog


def test_changelog_keeps_its_form() -> None:
    lines = read("CHANGELOG.md").splitlines()
    assert lines[0] == "# Changelog"
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    released = []
    for heading in versions[1:]:
        match = re.fullmatch(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", heading)
        assert match, heading
        released.append((Version(match[1]), date.fromisoformat(match[2])))
    assert released == sorted(released, reverse=True)
    kinds = {"### Added", "### Changed", "### Deprecated", "### Removed", "### Fixed", "### Security"}
    assert {line for line in lines if line.startswith("### ")} <= kinds


def test_changelog_has_something_under_every_heading() -> None:
    sections = re.split(r"^### .*$", read("CHANGELOG.md"), flags=re.MULTILINE)[1:]
    assert sections
    assert all(re.search(r"^- \S", section, re.MULTILINE) for section in sections)
