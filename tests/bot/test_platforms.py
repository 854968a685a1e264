"""A platform that describes itself needs one line more: everything else follows."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from adapters.base import Finding
from adapters.platform import Host, PlatformDescription
from adapters.web.settings import WebSettings
from bot import app, cli
from bot.config import PREFIX, Settings, SettingsError, load_settings, render_env_example, variables
from bot.doctor import examine
from bot.platforms import PLATFORMS
from tests.bot.doubles import ScriptedModel
from tests.bot.pigeons.platform import PLATFORM as PIGEONS
from tests.bot.pigeons.platform import PigeonSettings

ROOT = Path(__file__).parents[2]
KEY = "brass-hunter2"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith((PREFIX, "DISCORD_", "SLACK_", "PIGEONS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def with_pigeons(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setattr("bot.platforms.PLATFORMS", (*PLATFORMS, PIGEONS))


def without_package(*arguments: object) -> Any:
    raise ModuleNotFoundError("No module named 'pigeons'")


# --- a made-up platform


def test_without_its_line_nobody_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PIGEONS_NUM_GRAINS", "20")
    assert load_settings(None).remarks == (f"{PREFIX}PIGEONS_NUM_GRAINS is not a setting of this version.",)
    assert "PIGEONS" not in render_env_example()


@pytest.mark.usefixtures("with_pigeons")
def test_its_settings_are_read_from_the_environment_and_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PIGEONS_KEY={KEY}\n{PREFIX}PIGEONS_NUM_GRAINS=7\n", encoding="utf-8")
    monkeypatch.setenv(f"{PREFIX}PIGEONS_NUM_GRAINS", "8")
    settings = load_settings(tmp_path / ".env")
    pigeons = settings.platforms["pigeons"]
    assert isinstance(pigeons, PigeonSettings)
    assert (pigeons.num_grains, pigeons.is_active, settings.remarks) == (8, True, ())
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv(f"{PREFIX}PIGEONS_NUM_GRAINS", "20")
    assert load_settings(None).remarks == (f"{PREFIX}PIGEONS_NUM_GRAINS feeds nobody.",)


@pytest.mark.usefixtures("with_pigeons")
def test_its_problems_are_told_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"PIGEONS_KEY": "hunter2", f"{PREFIX}PIGEONS_NUM_GRAINS": "0", f"{PREFIX}WEB_PORT": "abc", f"{PREFIX}MAX_QUEUE": "0"}
    for name, value in bad.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert caught.value.problems == [
        f"{PREFIX}WEB_PORT must be a whole number.",
        "PIGEONS_KEY is not of brass.",
        f"{PREFIX}PIGEONS_NUM_GRAINS must be at least 1.",
        f"{PREFIX}MAX_QUEUE must be at least 1.",
    ]


@pytest.mark.usefixtures("with_pigeons")
def test_its_contradictions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PIGEONS_IS_BY_NIGHT", "true")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert caught.value.problems == [f"{PREFIX}PIGEONS_NUM_GRAINS must be at least 5 by night."]


@pytest.mark.usefixtures("with_pigeons")
def test_it_is_in_the_example_of_an_env_file() -> None:
    assert f"# The key of the dovecote.\n#PIGEONS_KEY=\n\n# How many grains each pigeon gets.\n#{PREFIX}PIGEONS_NUM_GRAINS=3\n" in (
        render_env_example()
    )


@pytest.mark.usefixtures("with_pigeons")
async def test_the_doctor_looks_at_it(tmp_path: Path) -> None:
    pigeons = PigeonSettings.model_validate({"key": KEY, "num_grains": 1})
    settings = Settings.model_validate({"data_dir": tmp_path, "platforms": {"pigeons": pigeons, "web": WebSettings(port=0)}})
    found = {finding.what: finding async for finding in examine(settings)}
    assert (found["Pigeons"].is_good, found["Pigeons"].sentence) == (False, "1 grains for each.")


@pytest.mark.usefixtures("with_pigeons")
def test_its_steps_are_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["setup", "pigeons"]) == 0
    assert cli.main(["setup", "pigeons", "--roof"]) == 0
    assert capsys.readouterr().out == "1. Build a dovecote.\n2. Wait.\n1. Build a dovecote with a roof.\n2. Wait.\n"
    with pytest.raises(SystemExit):
        cli.main(["setup", "--help"])
    assert "the steps for Pigeons" in capsys.readouterr().out


@pytest.mark.usefixtures("with_pigeons")
async def test_it_is_served_once_it_is_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))
    monkeypatch.setenv(f"{PREFIX}WEB_PORT", "0")
    monkeypatch.setenv("PIGEONS_KEY", KEY)
    told: asyncio.Queue[str] = asyncio.Queue()
    stop, model = asyncio.Event(), ScriptedModel()

    async def open_model(_: Settings) -> ScriptedModel:
        return model

    async with asyncio.timeout(30):
        running = asyncio.create_task(app.run(load_settings(None), told.put_nowait, open_model=open_model, stop=stop))
        ready = {await told.get(), await told.get()}
        stop.set()
        await running
    assert f"Threadsight is ready: the dovecote ({len(KEY)}, 20000000)" in ready
    assert len(model.requests) == 1


async def test_its_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def check(settings: PigeonSettings, host: Host) -> AsyncIterator[Finding]:
        yield without_package()

    bare = replace(PIGEONS, make=without_package, check=check)
    monkeypatch.setattr("bot.platforms.PLATFORMS", (*PLATFORMS, bare))
    pigeons = PigeonSettings.model_validate({"key": KEY})
    settings = Settings.model_validate({"data_dir": tmp_path, "platforms": {"pigeons": pigeons, "web": WebSettings(port=0)}})
    found = {finding.what: finding async for finding in examine(settings)}
    assert "pip install '.[pigeons]' in" in found["Pigeons"].sentence  # nobody's package of our name on an index
    with pytest.raises(Exception, match=r"pip install '\.\[pigeons\]' in"):
        await app.run(settings, print)


# --- the platforms that there are


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_a_description_needs_no_package_of_its_platform(platform: PlatformDescription[Any]) -> None:
    modules = f"adapters.{platform.name}.settings", f"adapters.{platform.name}.platform", f"adapters.{platform.name}.setup"
    present = [module for module in modules if (ROOT / f"{module.replace('.', '/')}.py").exists()]
    code = f"import sys, {', '.join(present)}; print(*sorted({{'discord', 'slack_bolt', 'slack_sdk'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


def test_make_installs_the_extra_that_a_variable_asks_for() -> None:
    """pyproject.toml says it before there is anything to ask, so it has to say the same as the platforms' settings."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    asking = {
        variable.name: platform.extra
        for platform in PLATFORMS
        for variable in variables()
        if platform.extra is not None and variable.platform == platform.name
        if platform.settings.model_construct(**{variable.field_name: "set"}).is_active
    }
    assert pyproject["tool"]["threadsight"]["asked-by"] == asking
    all_extras = set(pyproject["project"]["optional-dependencies"]) - {"all", "dev"}
    [everything] = pyproject["project"]["optional-dependencies"]["all"]
    assert Requirement(everything).extras == all_extras
    for variable, extra in asking.items():
        environment = {name: value for name, value in os.environ.items() if name not in asking} | {variable: "x"}
        command = ["make", "--dry-run", "--print-data-base", "help"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
        [extras] = re.findall(r"^RUN_EXTRAS := (.*)$", done.stdout, re.MULTILINE)
        assert extra in extras.split()


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_a_platform_is_named_by_one_line_alone(platform: PlatformDescription[Any]) -> None:
    """No module of the program but `bot/platforms.py` imports anything of its folder."""
    folder = f"adapters.{platform.name}"
    importers = {
        path.relative_to(ROOT).as_posix()
        for package in ("bot", "adapters", "model_server")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{folder}.")
        if not path.is_relative_to(ROOT / "adapters" / platform.name)
    }
    assert importers == {"bot/platforms.py"}
