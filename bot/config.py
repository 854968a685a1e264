"""Settings: read once, from the environment and from `.env`; the only module that reads the environment.

All problems are reported together, one plain sentence each, and no sentence shows a secret's value. An unknown variable with our
prefix is not an error, but it is reported (`Settings.remarks`), because it may be a typing error. Names of earlier versions still
work.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from adapters.settings import AnyCase, PlatformSettings, check_token, plain_address
from bot import platforms
from bot.proxies import Proxies, read_proxies

PREFIX = "THREADSIGHT_"
RENAMED = {  # name in an earlier version -> name now
    "THREADSIGHT_ENGINE_MAX_PICTURES": "THREADSIGHT_ENGINE_MAX_IMAGES",
    "THREADSIGHT_MAX_PICTURE_BYTES": "THREADSIGHT_MAX_IMAGE_BYTES",
}
_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


class SettingsError(Exception):
    """The settings are wrong. `problems` has one plain sentence per problem, which names its variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseModel):
    """Every setting of this version. A field's description is its text in `.env.example`.

    `platforms` has the settings of each platform by name; a missing one has its defaults.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    platforms: dict[str, SerializeAsAny[PlatformSettings]] = Field(default_factory=dict)
    questions_per_day: int = Field(
        0, ge=0, le=1_000_000, description="How many questions one person on a chat platform may ask within 24 hours; 0: no limit."
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
    quantization: Annotated[Literal["none", "8bit", "4bit", "auto"], AnyCase] = Field(
        "none", description="Fewer bits per weight: none, 8bit, 4bit, or auto, the best that fits with room for 8 chats."
    )
    engine_url: str | None = Field(
        None,
        description="An OpenAI-compatible server such as http://127.0.0.1:8000/v1 that answers instead of a model in this program.",
    )
    engine_api_key: SecretStr | None = Field(None, description="The key that this server asks for.")
    engine_model: str | None = Field(
        None, description="Which of the server's models; unless set, the first in its list that can answer."
    )
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
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = Field(
        "info", description="debug, info, warning or error."
    )

    _remarks: tuple[str, ...] = PrivateAttr(())
    _renamed: tuple[str, ...] = PrivateAttr(())
    _proxies: Proxies = PrivateAttr(Proxies())

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

    @field_validator("engine_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        try:
            return None if value is None else plain_address(value, "http://127.0.0.1:8000/v1")
        except ValueError as error:
            hint = f"; a key belongs into {PREFIX}ENGINE_API_KEY" if "plain" in str(error) else ""
            raise ValueError(f"{error}{hint}") from None

    @field_validator("role_questions_per_day")
    @classmethod
    def _role_numbers(cls, value: str) -> str:
        _parse_role_numbers(value)
        return value

    @field_validator("engine_api_key", "serve_api_key")
    @classmethod
    def _key_that_a_header_can_hold(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("must be printable ASCII without spaces")
        return value

    @field_validator("serve_api_key")
    @classmethod
    def _long_key_off_loopback(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return check_token(value, info.data.get("serve_host", "127.0.0.1"), f"{PREFIX}SERVE_HOST", "model")

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the operator about settings that have no effect."""
        return self._remarks

    @property
    def renamed(self) -> tuple[str, ...]:
        """Sentences about settings that were given, with effect, by an earlier version's name."""
        return self._renamed

    @property
    def proxies(self) -> Proxies:
        """The proxies by which everything outside of this machine is reached."""
        return self._proxies

    @property
    def role_limits(self) -> dict[str, int]:
        """Questions a day by role id; 0 is no limit."""
        return _parse_role_numbers(self.role_questions_per_day)

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL with an asyncio driver. It may contain a password: do not log it."""
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


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable, and the field that it sets: of a platform's settings, or of `Settings` (None)."""

    name: str
    platform: str | None
    field_name: str
    description: str
    default: object


def variables() -> tuple[Variable, ...]:
    """All variables of this version, in the order of `.env.example`."""
    found: list[Variable] = []
    for platform in platforms.PLATFORMS:
        found += _variables_of(platform.settings, f"{PREFIX}{platform.name.upper()}_", platform.name)
    return (*found, *_variables_of(Settings, PREFIX, None))


def _variables_of(model: type[BaseModel], prefix: str, platform: str | None) -> Iterator[Variable]:
    for field_name, field in model.model_fields.items():
        if model is not Settings or field_name != "platforms":
            alias = field.validation_alias
            name = alias if isinstance(alias, str) else f"{prefix}{field_name.upper()}"
            yield Variable(name, platform, field_name, field.description or "", field.default)


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """Read the environment and `env_file` (the environment wins). Raises SettingsError with every problem at once."""
    given = _read_environment(env_file)
    renamed, called = _understand_old_names(given)
    problems: list[str] = []
    by_platform: dict[str, PlatformSettings] = {}
    for platform in platforms.PLATFORMS:
        values = _values(given, platform.name)
        try:
            by_platform[platform.name] = platform.settings.model_validate(values)
        except ValidationError as error:
            problems += _sentences(error, platform.name, called)
    try:
        settings = Settings.model_validate({**_values(given, None), "platforms": by_platform})
    except ValidationError as error:
        problems += _sentences(error, None, called)
    proxies, wrong = read_proxies(given)
    problems += wrong
    if problems:
        raise SettingsError(problems)
    settings._proxies = proxies
    settings._renamed = tuple(renamed)
    settings._remarks = tuple(_remarks(settings, given))
    return settings


def _read_environment(env_file: Path | None) -> dict[str, str]:
    """The variables that are set, by upper-case name; an empty value counts as not set. Raises SettingsError."""
    try:
        from_file = dotenv_values(env_file, encoding="utf-8") if env_file is not None and env_file.is_file() else {}
    except (OSError, UnicodeDecodeError):
        raise SettingsError([f"The file {env_file} cannot be read as UTF-8 text."]) from None
    given: dict[str, str] = {}
    for source in (from_file, os.environ):
        # In this order a lower-case name wins over an upper-case one, as it does for proxies elsewhere.
        given |= {name.upper(): value for name, value in sorted(source.items()) if value}
    return given


def hand_on_proxies(settings: Settings) -> None:
    """Set the proxies' variables for the whole process, so that libraries that read them by themselves use the same."""
    for name, value in settings.proxies.environment().items():
        for spelling in (name, name.lower()):
            if value is None:
                os.environ.pop(spelling, None)
            else:
                os.environ[spelling] = value


def _understand_old_names(given: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Move values from old names to new ones. Returns a sentence for each, and the old names by new name."""
    sentences, called = [], {}
    for old, new in RENAMED.items():
        if old in given and new not in given:
            given[new] = given.pop(old)
            called[new] = old
            sentences.append(f"{old} is called {new} now, and still understood. Please write the new name.")
    return sentences, called


def _values(given: Mapping[str, str], platform: str | None) -> dict[str, str]:
    return {each.field_name: given[each.name] for each in variables() if each.platform == platform and each.name in given}


def _sentences(error: ValidationError, platform: str | None, called: Mapping[str, str]) -> Iterator[str]:
    names = {each.field_name: each.name for each in variables() if each.platform == platform}
    for problem in error.errors(include_url=False):
        location = str(problem["loc"][0]) if problem["loc"] else ""
        name = names.get(location, location)
        if name:
            yield _sentence(called.get(name, name), dict(problem))
        else:
            yield from str(problem["ctx"]["error"]).splitlines()


def _sentence(name: str, problem: dict[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
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


def _remarks(settings: Settings, given: Mapping[str, str]) -> Iterator[str]:
    if settings.engine_url is None:
        for field_name in ("engine_api_key", "engine_model", "engine_context_length"):
            if getattr(settings, field_name) is not None:
                yield f"{PREFIX}{field_name.upper()} is set without {PREFIX}ENGINE_URL, and has no effect."
    for of_platform in settings.platforms.values():
        yield from of_platform.remarks
    known = {each.name for each in variables()}
    for name in sorted(given.keys() - known):
        if name in RENAMED:
            yield f"{name} is called {RENAMED[name]} now, which is set too: the new name counts, and the old one has no effect."
        elif name.startswith(PREFIX):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            yield f"{name} is not a setting of this version." + (f" Did you mean {close[0]}?" if close else "")


def render_env_example() -> str:
    """The content of `.env.example`: every setting with its description and default, all commented out."""
    lines = ["# Threadsight's settings. Copy this file to .env and take the # off the lines that you change.", ""]
    for each in variables():
        default = "" if each.default is None else each.default
        lines += [f"# {each.description}", f"#{each.name}={default}", ""]
    return "\n".join(lines[:-1]) + "\n"
