"""Discord's settings."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from adapters.settings import Entries, PlatformSettings, plain_address


class DiscordSettings(PlatformSettings):
    """The settings DISCORD_TOKEN and THREADSIGHT_DISCORD_…."""

    token: SecretStr | None = Field(
        default=None,
        validation_alias="DISCORD_TOKEN",
        description="The Discord bot's token; `threadsight setup discord` says where it is.",
    )
    allow: Entries = Field(
        default="",
        description="Who may use the bot on Discord, and where: guild:ID channel:ID role:ID user:ID dm; empty admits everybody.",
    )
    deny: Entries = Field(default="", description="Who may not, and where not, in the same words; it wins over the list above.")
    api_url: str | None = Field(
        default=None,
        description="Discord's REST address, when it is another one than Discord's own, such as http://127.0.0.1:PORT/api/v10.",
    )
    gateway_url: str | None = Field(
        default=None, description="Its gateway's address, likewise, such as ws://127.0.0.1:PORT/gateway/."
    )

    @property
    def is_active(self) -> bool:
        return self.token is not None

    @field_validator("api_url")
    @classmethod
    def _api_address(cls, value: str | None) -> str | None:
        return None if value is None else plain_address(value, "http://127.0.0.1:8000/api/v10")

    @field_validator("gateway_url")
    @classmethod
    def _gateway_address(cls, value: str | None) -> str | None:
        return None if value is None else plain_address(value, "ws://127.0.0.1:8000/gateway/")
