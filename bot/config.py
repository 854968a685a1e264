"""Settings: read once, from the environment and from `.env`; the only module that reads the environment.

Everything that is wrong is reported together, one plain sentence per variable, and no sentence shows a secret's value. A
variable with our prefix that this version does not know is not an error, but it is told (`Settings.remarks`), because it may be
a typing slip.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from adapters.access import parse_entries
from adapters.address import is_loopback

PREFIX = "THREADSIGHT_"
_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


_EXAMPLES = {
    "engine_url": "http://127.0.0.1:8000/v1",
    "discord_api_url": "http://127.0.0.1:8000/api/v10",
    "discord_gateway_url": "ws://127.0.0.1:8000/gateway/",
    "slack_api_url": "http://127.0.0.1:8000/api/",
}


class SettingsError(Exception):
    """`problems` holds one plain sentence per thing that is wrong, each naming its variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """Every setting of this version. A field's description is what `.env.example` says about it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", env_file_encoding="utf-8", hide_input_in_errors=True
    )

    discord_token: SecretStr | None = Field(
        None, validation_alias="DISCORD_TOKEN", description="The Discord bot's token; `threadsight setup discord` says where it is."
    )
    discord_allow: str = Field(
        "", description="Who may use the bot on Discord, and where: guild:ID channel:ID role:ID user:ID dm; empty admits everybody."
    )
    discord_deny: str = Field("", description="Who may not, and where not, in the same words; it wins over the list above.")
    discord_api_url: str | None = Field(
        None,
        description="Discord's REST address, when it is another one than Discord's own, such as http://127.0.0.1:PORT/api/v10.",
    )
    discord_gateway_url: str | None = Field(
        None, description="Its gateway's address, likewise, such as ws://127.0.0.1:PORT/gateway/."
    )
    slack_bot_token: SecretStr | None = Field(
        None,
        validation_alias="SLACK_BOT_TOKEN",
        description="The Slack bot's token (xoxb-…); `threadsight setup slack` says where it is.",
    )
    slack_app_token: SecretStr | None = Field(
        None, validation_alias="SLACK_APP_TOKEN", description="The Slack app-level token (xapp-…), for socket mode."
    )
    slack_signing_secret: SecretStr | None = Field(
        None, validation_alias="SLACK_SIGNING_SECRET", description="The Slack app's signing secret, for http mode."
    )
    slack_client_id: str | None = Field(
        None, validation_alias="SLACK_CLIENT_ID", description="With the client secret: several workspaces, each installs by OAuth."
    )
    slack_client_secret: SecretStr | None = Field(
        None, validation_alias="SLACK_CLIENT_SECRET", description="The Slack app's client secret; see above."
    )
    slack_mode: Literal["socket", "http"] = Field(
        "socket", description="socket needs no public address; http takes Slack's requests on the web page's port, under /slack/."
    )
    slack_allow: str = Field(
        "", description="Who may use the bot on Slack, and where: team:ID channel:ID user:ID dm; empty admits everybody."
    )
    slack_deny: str = Field("", description="Who may not, and where not, in the same words; it wins over the list above.")
    slack_api_url: str | None = Field(
        None, description="Slack's Web API address, when it is another one than Slack's own, such as http://127.0.0.1:PORT/api/."
    )
    questions_per_day: int = Field(
        0, ge=0, le=1_000_000, description="How many questions one person on Discord or Slack may ask within 24 hours; 0: no limit."
    )
    role_questions_per_day: str = Field(
        "", description="The same for people with a certain Discord role, such as ROLE_ID=100 ROLE_ID=0; the most generous counts."
    )
    waiting_per_person: int = Field(
        4, ge=1, le=1_000, description="How many questions of one person may wait or be answered at the same time."
    )
    catch_up_hours: float = Field(
        12, ge=0, le=720, description="Mentions missed while the bot was away are answered if they are no older; 0: never."
    )
    catch_up_messages: int = Field(20, ge=0, le=1_000, description="No more of them than so many, the newest, on each platform.")
    model: str = Field("tiny", description="The bundled `tiny`, or a LLaVA checkpoint: a folder or a hub id.")
    model_revision: str | None = Field(
        None, description="The model's branch, tag or commit on the hub; unless set, its newest state."
    )
    quantization: Literal["none", "8bit", "4bit", "auto"] = Field(
        "none", description="Fewer bits per weight: none, 8bit, 4bit, or auto, the best that fits with room for 8 chats."
    )
    engine_url: str | None = Field(
        None,
        description="An OpenAI-compatible server such as http://127.0.0.1:8000/v1 that answers instead of a model in this program.",
    )
    engine_api_key: SecretStr | None = Field(None, description="The key that this server asks for.")
    engine_model: str | None = Field(None, description="Which of the server's models; unless set, the first that it lists.")
    engine_context_length: int | None = Field(
        None, ge=256, le=10_000_000, description="Its context in tokens; unless set, what the server says, else 4096."
    )
    engine_max_images: int = Field(1, ge=1, le=100, description="How many pictures of one chat its model can look at together.")
    max_new_tokens: int = Field(512, ge=1, le=100_000, description="The longest answer, in tokens.")
    temperature: float = Field(0.2, ge=0, le=2, description="How freely words are chosen: 0 always takes the likeliest, 2 is wild.")
    max_queue: int = Field(
        64, ge=1, le=10_000, description="How many questions may wait; one more is told at once that the queue is full."
    )
    data_dir: Path = Field(Path("data"), description="The folder of everything that is kept.")
    database_url: SecretStr | None = Field(
        None, description="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME; unless set, SQLite in the data folder."
    )
    retention_days: int = Field(0, ge=0, le=36_500, description="Chats untouched for so many days are deleted; 0 keeps them.")
    max_image_bytes: int = Field(20_000_000, ge=1_000, le=1_000_000_000, description="The largest picture file, in bytes.")
    web_host: str = Field("127.0.0.1", description="Where the web page listens. Anything but loopback demands a web token.")
    web_port: int = Field(8080, ge=0, le=65_535, description="The web page's port; 0 takes a free one and prints it.")
    web_token: SecretStr | None = Field(
        None, validate_default=True, description="What the web page asks for once before it opens; at least 16 characters."
    )
    serve_host: str = Field(
        "127.0.0.1", description="Where `threadsight serve` listens. Anything but loopback demands a serve API key."
    )
    serve_port: int = Field(8081, ge=0, le=65_535, description="The port of `threadsight serve`; 0 takes a free one and prints it.")
    serve_api_key: SecretStr | None = Field(
        None,
        validate_default=True,
        description="What clients of `threadsight serve` must send as their key; at least 16 characters.",
    )
    idle_unload_seconds: float = Field(
        0, ge=0, le=31_536_000, description="The model leaves the memory when nobody has asked for so long; 0: never."
    )
    shutdown_grace_seconds: float = Field(
        20, ge=0, le=3_600, description="How long running answers may take to finish at shutdown."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error.")

    _remarks: tuple[str, ...] = PrivateAttr(())

    @field_validator("log_level", "quantization", "slack_mode", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            url = make_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("is not a database URL such as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME") from None
        if url.drivername not in _ASYNC_DRIVERS:
            raise ValueError(f"names the database {url.drivername}; this program knows sqlite and postgresql")
        driver = _ASYNC_DRIVERS[url.drivername]
        if not url.database or url.database == ":memory:":
            raise ValueError("must name a file or a database")
        return SecretStr(url.set(drivername=driver).render_as_string(hide_password=False))

    @field_validator("engine_url", "discord_api_url", "discord_gateway_url", "slack_api_url")
    @classmethod
    def _plain_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        example = _EXAMPLES[info.field_name or ""]
        scheme = urlsplit(example).scheme
        try:
            parts = urlsplit(value)
            is_address = parts.scheme in (scheme, f"{scheme}s") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise ValueError(f"is not an address such as {example}")
        if parts.username is not None or parts.query or parts.fragment:
            has_key = info.field_name == "engine_url"
            raise ValueError("must be a plain address" + (f"; a key belongs into {PREFIX}ENGINE_API_KEY" if has_key else ""))
        return value.rstrip("/") + ("/" if example.endswith("/") else "")

    @field_validator("discord_allow", "discord_deny", "slack_allow", "slack_deny")
    @classmethod
    def _known_entries(cls, value: str, info: ValidationInfo) -> str:
        roles = [name for kind, name in parse_entries(value) if kind == "role"]
        if roles and (info.field_name or "").startswith("slack"):
            raise ValueError(f"has the entry 'role:{roles[0]}', but Slack has no roles; write team:ID, channel:ID, user:ID or dm")
        return value

    @field_validator("role_questions_per_day")
    @classmethod
    def _role_numbers(cls, value: str) -> str:
        _parse_role_numbers(value)
        return value

    @field_validator("slack_bot_token", "slack_app_token")
    @classmethod
    def _kind_of_slack_token(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        start = {"slack_bot_token": "xoxb-", "slack_app_token": "xapp-"}[info.field_name or ""]
        if value is not None and not value.get_secret_value().startswith(start):
            raise ValueError(f"is another kind of token: this one starts with {start}")
        return value

    @field_validator("engine_api_key", "serve_api_key")
    @classmethod
    def _key_that_a_header_can_hold(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("must be printable ASCII without spaces")
        return value

    @field_validator("web_token", "serve_api_key")
    @classmethod
    def _long_token_off_loopback(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        host_field, what = {"web_token": ("web_host", "page"), "serve_api_key": ("serve_host", "model")}[info.field_name or ""]
        host = info.data.get(host_field, "127.0.0.1")
        if value is None and not is_loopback(host):
            raise ValueError(f"must be set when {variable_name(host_field)} is {host!r}, because others can then reach the {what}")
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("is too short to keep anybody out: use at least 16 characters")
        return value

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the person who runs the program: things that were set and have no effect."""
        return self._remarks

    @property
    def role_limits(self) -> dict[str, int]:
        """Questions a day by role id; 0 is no limit."""
        return _parse_role_numbers(self.role_questions_per_day)

    @property
    def has_discord(self) -> bool:
        return self.discord_token is not None

    @property
    def has_slack(self) -> bool:
        return self.slack_bot_token is not None or self.slack_client_id is not None

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL with an asyncio driver. It may hold a password: not for logs."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir / 'threadsight.db'}"


def _parse_role_numbers(text: str) -> dict[str, int]:
    numbers = {}
    for word in text.replace(",", " ").split():
        role_id, _, number = word.partition("=")
        if not role_id or not number.isdecimal():
            raise ValueError(f"has the entry {word!r}; write ROLE_ID=NUMBER")
        numbers[role_id] = int(number)
    return numbers


def variable_name(field_name: str) -> str:
    """The environment variable of a field of `Settings`."""
    alias = Settings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field_name.upper()


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """Read the environment and `env_file` (the environment wins). Raises SettingsError with every problem at once."""
    try:
        settings = Settings(_env_file=env_file)  # type: ignore[call-arg]  # an argument of BaseSettings, not a field
    except ValidationError as error:
        raise SettingsError([_sentence(dict(problem)) for problem in error.errors(include_url=False)]) from None
    except (OSError, UnicodeDecodeError):
        raise SettingsError([f"The file {env_file} cannot be read as UTF-8 text."]) from None
    if problems := _contradictions(settings):
        raise SettingsError(problems)
    settings._remarks = tuple(_remarks(settings, env_file))
    return settings


def _sentence(problem: dict[str, Any]) -> str:
    field_name, kind, context = str(problem["loc"][0]), problem["type"], problem.get("ctx", {})
    name = variable_name(field_name) if field_name in Settings.model_fields else field_name
    match kind:
        case "int_parsing" | "int_from_float":
            return f"{name} must be a whole number."
        case "float_parsing":
            return f"{name} must be a number."
        case "greater_than_equal":
            return f"{name} must be at least {context['ge']}."
        case "less_than_equal":
            return f"{name} must be at most {context['le']}."
        case "literal_error":
            return f"{name} must be one of {context['expected']}."
        case "value_error":
            return f"{name} {context['error']}."
        case _:
            return f"{name}: {problem['msg']}."


def _contradictions(settings: Settings) -> list[str]:
    """What each setting alone does not show."""
    problems = []
    if (settings.slack_client_id is None) != (settings.slack_client_secret is None):
        problems.append("SLACK_CLIENT_ID and SLACK_CLIENT_SECRET belong together: set both, or none.")
    if settings.has_slack:
        if settings.slack_mode == "socket" and settings.slack_app_token is None:
            problems.append("SLACK_APP_TOKEN must be set for Slack's socket mode: an app-level token with connections:write.")
        if settings.slack_mode == "http" and settings.slack_signing_secret is None:
            problems.append(f"SLACK_SIGNING_SECRET must be set when {PREFIX}SLACK_MODE is http.")
    elif settings.slack_app_token is not None:
        problems.append("SLACK_BOT_TOKEN must be set too: SLACK_APP_TOKEN alone opens no workspace.")
    return problems


def _remarks(settings: Settings, env_file: Path | None) -> list[str]:
    remarks = []
    if settings.engine_url is None:
        for field_name in ("engine_api_key", "engine_model", "engine_context_length"):
            if getattr(settings, field_name) is not None:
                remarks.append(f"{variable_name(field_name)} is set without {PREFIX}ENGINE_URL, and has no effect.")
    if settings.slack_client_id is not None and settings.slack_bot_token is not None:
        remarks.append("SLACK_BOT_TOKEN is for one workspace, and has no effect beside SLACK_CLIENT_ID, which is for several.")
    known = {variable_name(field_name) for field_name in Settings.model_fields}
    given = {*os.environ, *(dotenv_values(env_file) if env_file is not None and env_file.is_file() else ())}
    for name in sorted(given - known):
        if name.startswith(PREFIX):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            remarks.append(f"{name} is not a setting of this version." + (f" Did you mean {close[0]}?" if close else ""))
    return remarks


def render_env_example() -> str:
    """The content of `.env.example`: every setting with its meaning and its default, all commented out."""
    lines = ["# Threadsight's settings. Copy this file to .env and take the # off the lines that you change.", ""]
    for field_name, field in Settings.model_fields.items():
        default = "" if field.default is None else field.default
        lines += [f"# {field.description}", f"#{variable_name(field_name)}={default}", ""]
    return "\n".join(lines[:-1]) + "\n"
