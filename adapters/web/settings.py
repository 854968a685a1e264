"""The web page's settings."""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from adapters.settings import PlatformSettings, check_token


class WebSettings(PlatformSettings):
    host: str = Field(default="127.0.0.1", description="Where the web page listens. Anything but loopback demands a web token.")
    port: int = Field(default=8080, ge=0, le=65_535, description="The web page's port; 0 takes a free one and prints it.")
    token: SecretStr | None = Field(
        default=None, validate_default=True, description="What the web page asks for once before it opens; at least 16 characters."
    )

    @field_validator("token")
    @classmethod
    def _token_off_loopback(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return check_token(value, info.data.get("host", "127.0.0.1"), "THREADSIGHT_WEB_HOST", "page")
