"""Settings: one sentence per problem, all at once, and no secret anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.discord.settings import DiscordSettings
from adapters.slack.settings import SlackSettings
from adapters.web.settings import WebSettings
from bot.config import PREFIX, Settings, SettingsError, load_settings, render_env_example, variables
from bot.platforms import PLATFORMS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith((PREFIX, "DISCORD_", "SLACK_")):
            monkeypatch.delenv(name)


def web(settings: Settings) -> WebSettings:
    found = settings.platforms["web"]
    assert isinstance(found, WebSettings)
    return found


def test_the_defaults_need_nothing(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / ".env")
    assert settings.model == "tiny"
    assert settings.platforms == {platform.name: platform.settings() for platform in PLATFORMS}
    assert (web(settings).host, web(settings).port) == ("127.0.0.1", 8080)
    assert settings.store_url == "sqlite+aiosqlite:///data/threadsight.db"
    assert settings.remarks == ()


def test_all_problems_are_told_together_each_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {
        "WEB_HOST": "0.0.0.0",
        "WEB_PORT": "abc",
        "MAX_NEW_TOKENS": "0",
        "TEMPERATURE": "warm",
        "QUANTIZATION": "3bit",
        "DATABASE_URL": "mysql://me:hunter2@db/chats",
        "LOG_LEVEL": "loud",
        "RETENTION_DAYS": "-1",
        "ENGINE_URL": "http://me:hunter2@engine/v1",
        "SERVE_HOST": "0.0.0.0",
    }
    for name, value in bad.items():
        monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    problems = caught.value.problems
    assert sorted(problem.split()[0].removeprefix(PREFIX) for problem in problems) == sorted(
        [*(bad.keys() - {"WEB_HOST", "SERVE_HOST"}), "WEB_TOKEN", "SERVE_API_KEY"]
    )
    assert all(problem.endswith(".") for problem in problems)
    assert "hunter2" not in str(caught.value)
    assert f"{PREFIX}WEB_PORT must be a whole number." in problems


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "LocalHost"])
def test_loopback_needs_no_token(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv(f"{PREFIX}WEB_HOST", host)
    assert web(load_settings(None)).token is None


def test_a_short_token_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}WEB_TOKEN", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert "at least 16" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["engine:8000", "ftp://engine/v1", "http://", "http://engine:x/v1", "http://engine/v1?key=1"])
def test_an_engine_that_has_no_plain_address_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(f"{PREFIX}ENGINE_URL", url)
    with pytest.raises(SettingsError, match="ENGINE_URL"):
        load_settings(None)


def test_the_engine_s_key_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}ENGINE_URL", "https://engine.example/v1/")
    monkeypatch.setenv(f"{PREFIX}ENGINE_API_KEY", "hunter2")
    settings = load_settings(None)
    assert settings.engine_url == "https://engine.example/v1"
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv(f"{PREFIX}ENGINE_API_KEY", "hunter2\r\nX-Other: 1")
    with pytest.raises(SettingsError, match="ENGINE_API_KEY") as caught:
        load_settings(None)
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv(f"{PREFIX}ENGINE_API_KEY")
    monkeypatch.setenv(f"{PREFIX}SERVE_API_KEY", "a key that no client could send")
    with pytest.raises(SettingsError, match="SERVE_API_KEY must be printable"):
        load_settings(None)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:///chats.db", "sqlite+aiosqlite:///chats.db"),
        ("postgres://me:hunter2@db/chats", "postgresql+asyncpg://me:hunter2@db/chats"),
        ("postgresql+asyncpg://db/chats", "postgresql+asyncpg://db/chats"),
    ],
)
def test_database_urls_get_their_asyncio_driver(monkeypatch: pytest.MonkeyPatch, given: str, used: str) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", given)
    settings = load_settings(None)
    assert settings.store_url == used
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "chats.db"])
def test_a_database_that_would_forget_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", url)
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        load_settings(None)


def test_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{PREFIX}MODEL=from-file\n{PREFIX}WEB_PORT=1234\n{PREFIX}WEB_TOKEN=\n", encoding="utf-8")
    monkeypatch.setenv(f"{PREFIX}WEB_PORT", "4321")
    settings = load_settings(env_file)
    assert (settings.model, web(settings).port, web(settings).token) == ("from-file", 4321, None)


def test_what_has_no_effect_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{PREFIX}WEBPORT=1\n{PREFIX}POLISH=x\n{PREFIX}ENGINE_MODEL=x\n", encoding="utf-8")
    engine_model, polish, slip = load_settings(env_file).remarks
    assert f"{PREFIX}ENGINE_MODEL is set without {PREFIX}ENGINE_URL" in engine_model
    assert f"{PREFIX}POLISH is not a setting" in polish
    assert f"Did you mean {PREFIX}WEB_PORT?" in slip


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"SLACK_BOT_TOKEN": "xoxb-1"}, "SLACK_APP_TOKEN must be set"),
        ({"SLACK_APP_TOKEN": "xapp-1"}, "SLACK_BOT_TOKEN must be set too"),
        ({"SLACK_BOT_TOKEN": "xoxb-1", f"{PREFIX}SLACK_MODE": "http"}, "SLACK_SIGNING_SECRET must be set"),
        ({"SLACK_CLIENT_ID": "1.2", "SLACK_APP_TOKEN": "xapp-1"}, "SLACK_CLIENT_ID and SLACK_CLIENT_SECRET belong together"),
        ({"SLACK_BOT_TOKEN": "xapp-hunter2", "SLACK_APP_TOKEN": "xapp-1"}, "SLACK_BOT_TOKEN is another kind of token"),
        ({f"{PREFIX}DISCORD_ALLOW": "server:1"}, f"{PREFIX}DISCORD_ALLOW has the entry 'server:1'"),
        ({f"{PREFIX}SLACK_ALLOW": "dm role:R1"}, f"{PREFIX}SLACK_ALLOW has the entry 'role:R1', but Slack has no roles"),
        ({f"{PREFIX}ROLE_QUESTIONS_PER_DAY": "12=many"}, f"{PREFIX}ROLE_QUESTIONS_PER_DAY has the entry '12=many'"),
        ({f"{PREFIX}DISCORD_GATEWAY_URL": "http://127.0.0.1:1/"}, "is not an address such as ws://"),
    ],
)
def test_platform_settings_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], sentence: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    [problem] = caught.value.problems
    assert sentence in problem
    assert problem.endswith(".")
    assert "hunter2" not in problem


def test_platform_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"SLACK_BOT_TOKEN": "xoxb-1", "SLACK_SIGNING_SECRET": "x", f"{PREFIX}SLACK_MODE": "HTTP"}
    more = {"SLACK_API_URL": "http://127.0.0.1:1/api", "DISCORD_API_URL": "http://127.0.0.1:1/api/v10/"}
    for name, value in (given | {PREFIX + name: value for name, value in more.items()}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"{PREFIX}ROLE_QUESTIONS_PER_DAY", "12=5, 13=0")
    settings = load_settings(None)
    slack, discord = settings.platforms["slack"], settings.platforms["discord"]
    assert isinstance(slack, SlackSettings)
    assert isinstance(discord, DiscordSettings)
    assert (slack.api_url, discord.api_url) == ("http://127.0.0.1:1/api/", "http://127.0.0.1:1/api/v10")
    assert settings.role_limits == {"12": 5, "13": 0}
    assert (slack.is_active, discord.is_active, slack.mode) == (True, False, "http")


def test_one_slack_token_beside_those_of_several_workspaces_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"SLACK_BOT_TOKEN": "xoxb-1", "SLACK_APP_TOKEN": "xapp-1", "SLACK_CLIENT_ID": "1.2", "SLACK_CLIENT_SECRET": "x"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (remark,) = load_settings(None).remarks
    assert remark.startswith("SLACK_BOT_TOKEN is for one workspace")


def test_env_example_and_settings_are_the_same() -> None:
    content = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert content == render_env_example(), (
        "write it again with: python -c 'from bot.config import *; print(render_env_example(), end=\"\")'"
    )
    for variable in variables():
        assert f"#{variable.name}=" in content


def test_env_example_with_every_line_taken_says_the_defaults(tmp_path: Path) -> None:
    lines = render_env_example().splitlines()
    taken = [line.removeprefix("#") for line in lines if line.startswith("#") and not line.startswith("# ")]
    env_file = tmp_path / ".env"
    env_file.write_text("\n".join(taken), encoding="utf-8")
    settings = load_settings(env_file)
    assert settings.model_dump() == load_settings(None).model_dump()
    assert settings.remarks == ()


def test_importing_the_settings_loads_no_model_and_no_platform() -> None:
    code = (
        "import sys, bot.config, adapters.base; "
        "print(sorted({'torch', 'transformers', 'discord', 'slack_bolt', 'aiohttp', 'asyncpg'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# --- what was called otherwise in an earlier version


def test_an_env_file_of_the_version_before_goes_on_working() -> None:
    """`earlier_env.txt` is the `.env.example` of that version with a value in every line, two of them under names of that time."""
    given = Path(__file__).with_name("earlier_env.txt")
    settings = load_settings(given)
    of_that_version = {
        "discord": DiscordSettings.model_validate(
            {
                "token": "a-discord-token",
                "allow": "guild:1 dm",
                "deny": "user:2",
                "api_url": "http://127.0.0.1:1/api/v10",
                "gateway_url": "ws://127.0.0.1:1/gateway/",
            }
        ),
        "slack": SlackSettings.model_validate(
            {
                "bot_token": "xoxb-1",
                "app_token": "xapp-1",
                "signing_secret": "a-signing-secret",
                "mode": "http",
                "allow": "team:T1",
                "deny": "channel:C1",
                "api_url": "http://127.0.0.1:1/api/",
            }
        ),
        "web": WebSettings.model_validate({"host": "0.0.0.0", "port": 1234, "token": "sixteen-characters"}),
    }
    assert {name: settings.platforms[name] for name in of_that_version} == of_that_version
    ours = {name: value for name, value in settings.model_dump().items() if name != "platforms"}
    secrets = {"engine_api_key": "an-engine-key", "serve_api_key": "another-sixteen-characters"}
    assert {name: ours.pop(name).get_secret_value() for name in secrets} == secrets
    assert ours.pop("database_url").get_secret_value() == "postgresql+asyncpg://me:secret@db/chats"
    assert ours == {
        "questions_per_day": 9,
        "role_questions_per_day": "12=5 13=0",
        "waiting_per_person": 3,
        "catch_up_hours": 6.0,
        "catch_up_messages": 7,
        "model": "llava-hf/llava-1.5-7b-hf",
        "model_revision": "main",
        "quantization": "4bit",
        "engine_url": "http://127.0.0.1:8000/v1",
        "engine_model": "a-model",
        "engine_context_length": 8192,
        "engine_max_images": 4,
        "max_new_tokens": 256,
        "temperature": 0.5,
        "max_queue": 32,
        "data_dir": Path("elsewhere"),
        "retention_days": 30,
        "max_image_bytes": 5_000_000,
        "serve_host": "0.0.0.0",
        "serve_port": 1235,
        "idle_unload_seconds": 600.0,
        "shutdown_grace_seconds": 10.0,
        "log_level": "debug",
    }
    assert settings.remarks == ()
    assert [sentence.partition(",")[0] for sentence in settings.renamed] == [
        f"{PREFIX}ENGINE_MAX_PICTURES is called {PREFIX}ENGINE_MAX_IMAGES now",
        f"{PREFIX}MAX_PICTURE_BYTES is called {PREFIX}MAX_IMAGE_BYTES now",
    ]


@pytest.mark.parametrize("new_is_in_file", [True, False])
def test_the_new_name_wins_over_the_old_one_wherever_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_is_in_file: bool
) -> None:
    old, new = f"{PREFIX}MAX_PICTURE_BYTES", f"{PREFIX}MAX_IMAGE_BYTES"
    in_file, outside = ((new, "2000"), (old, "3000")) if new_is_in_file else ((old, "3000"), (new, "2000"))
    (tmp_path / ".env").write_text("=".join(in_file), encoding="utf-8")
    monkeypatch.setenv(*outside)
    settings = load_settings(tmp_path / ".env")
    assert settings.max_image_bytes == 2000
    assert settings.renamed == ()
    [remark] = settings.remarks
    assert remark == f"{old} is called {new} now, which is set too: the new name counts, and the old one has no effect."


def test_old_names_are_understood_from_the_environment_and_empty_ones_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}MAX_PICTURE_BYTES", "2000")
    monkeypatch.setenv(f"{PREFIX}ENGINE_MAX_PICTURES", "")
    settings = load_settings(None)
    assert (settings.max_image_bytes, settings.engine_max_images, settings.remarks) == (2000, 1, ())
    assert len(settings.renamed) == 1


def test_a_wrong_value_is_told_by_the_name_that_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}MAX_PICTURE_BYTES", "many")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert caught.value.problems == [f"{PREFIX}MAX_PICTURE_BYTES must be a whole number."]
