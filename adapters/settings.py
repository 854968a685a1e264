"""The base of the platforms' settings: plain pydantic. `bot/config.py` reads the environment for them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr

from adapters.access import parse_entries
from adapters.address import is_loopback

MIN_TOKEN_CHARS = 16


class PlatformSettings(BaseModel):
    """One platform's settings. A field's description is its text in `.env.example`.

    Field `allow` of the platform `discord` is the variable THREADSIGHT_DISCORD_ALLOW, unless it has another validation_alias. A
    field validator's ValueError is the rest of a sentence that begins with the variable; a model validator's has whole sentences,
    one per line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    @property
    def is_active(self) -> bool:
        """Whether the platform should be served."""
        return True

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences about settings that have no effect."""
        return ()


def plain_address(value: str, example: str) -> str:
    """Normalize a URL, with a slash at its end if `example` has one. Raises ValueError."""
    scheme = urlsplit(example).scheme
    try:
        parts = urlsplit(value)
        is_address = parts.scheme in (scheme, f"{scheme}s") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError(f"is not an address such as {example}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be a plain address")
    return value.rstrip("/") + ("/" if example.endswith("/") else "")


def check_token(token: SecretStr | None, host: str, host_variable: str, what: str) -> SecretStr | None:
    """Check the token that is required before other machines may reach `what`. Raises ValueError."""
    if token is None and not is_loopback(host):
        raise ValueError(f"must be set when {host_variable} is {host!r}, because others can then reach the {what}")
    if token is not None and len(token.get_secret_value()) < MIN_TOKEN_CHARS:
        raise ValueError(f"is too short to keep anybody out: use at least {MIN_TOKEN_CHARS} characters")
    return token


def secret(value: SecretStr | None) -> str | None:
    """The secret itself; None if it is not set."""
    return None if value is None else value.get_secret_value()


def _known_entries(value: str) -> str:
    parse_entries(value)
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Entries = Annotated[str, AfterValidator(_known_entries)]
"""An allow or deny list in the format of `adapters.access`."""

AnyCase = BeforeValidator(_lower)
"""For case-insensitive words: Annotated[Literal["http", "socket"], AnyCase]."""
