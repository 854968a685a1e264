"""What the documents say is so: settings, commands, make targets, links, and the changelog's form."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from packaging.version import Version

from bot.config import variables

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
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
    assert named - set(VARIABLES) == set()


# --- commands


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_in_documents_exist(document: str) -> None:
    named = set(re.findall(r"(?:^|[\s;&|])make +([a-z][a-z-]*)", code_of(read(document)), re.MULTILINE))
    assert named
    assert named - make_targets() == set()


def test_readme_shows_the_two_commands() -> None:
    assert {"make run", "make test"} <= set(re.findall(r"make (?:run|test)\b", code_of(read("README.md"))))


def test_every_make_target_is_phony_and_explained() -> None:
    makefile = read("Makefile")
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    explained = set(re.findall(r"^([a-z-]+):.* ## \S", makefile, re.MULTILINE))
    assert make_targets() == set(phony.split()) == explained


def test_commands_in_readme_exist() -> None:
    commands = set(re.findall(r"(?:^|[\s/])threadsight +([a-z]+)\b", code_of(read("README.md")), re.MULTILINE))
    assert {"run", "chat"} <= commands
    for command in sorted(commands):
        result = subprocess.run(
            [sys.executable, "-m", "bot", command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, f"threadsight {command} --help: {result.stderr}"


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
