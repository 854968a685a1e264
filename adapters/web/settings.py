"""The web page's settings."""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from adapters.address import is_loopback
from adapters.settings import PlatformSettings, check_token, plain_address
from adapters.web.networks import parse_networks
from adapters.web.origin import origin_of

PUBLIC_URL = "THREADSIGHT_PUBLIC_URL"
_EXAMPLE = "https://threadsight.example/"


class WebSettings(PlatformSettings):
    """The page's address here, its public one, and the token. An address that others can reach demands the token."""

    host: str = Field(default="127.0.0.1", description="Where the web page listens. Anything but loopback demands a web token.")
    port: int = Field(default=8080, ge=0, le=65_535, description="The web page's port; 0 takes a free one and prints it.")
    public_url: str | None = Field(
        default=None,
        validation_alias=PUBLIC_URL,
        description="Where people open the page if a proxy is before it, such as https://threadsight.example. Demands a web token.",
    )
    token: SecretStr | None = Field(
        default=None, validate_default=True, description="What the web page asks for once before it opens; at least 16 characters."
    )

    trusted_proxies: str = Field(
        default="",
        description="Addresses or networks of your proxies before the page, such as 127.0.0.1, 10.0.0.0/8. Only they are believed "
        "who a visitor is (X-Forwarded-For); wrong tokens count against that visitor alone.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _known_networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("public_url")
    @classmethod
    def _public_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        address = plain_address(value, _EXAMPLE)
        if origin_of(address) is None:
            raise ValueError(f"is not an address such as {_EXAMPLE}")
        return address

    @field_validator("token")
    @classmethod
    def _token_off_loopback(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None and is_reached_from_outside(info.data.get("public_url")):
            raise ValueError(f"must be set when {PUBLIC_URL} is set, because others can then reach the page")
        return check_token(value, info.data.get("host", "127.0.0.1"), "THREADSIGHT_WEB_HOST", "page")


def is_reached_from_outside(public_url: str | None) -> bool:
    """Whether others reach the page at its public address."""
    origin = None if public_url is None else origin_of(public_url)
    return origin is not None and not is_loopback(origin.host)
