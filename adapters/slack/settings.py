"""Slack's settings, and which of them require each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from adapters.access import parse_entries
from adapters.settings import AnyCase, Entries, PlatformSettings, plain_address

_TOKEN_STARTS = {"bot_token": "xoxb-", "app_token": "xapp-"}


class SlackSettings(PlatformSettings):
    """The settings SLACK_… and THREADSIGHT_SLACK_…."""

    bot_token: SecretStr | None = Field(
        default=None,
        validation_alias="SLACK_BOT_TOKEN",
        description="The Slack bot's token (xoxb-…); `threadsight setup slack` says where it is.",
    )
    app_token: SecretStr | None = Field(
        default=None, validation_alias="SLACK_APP_TOKEN", description="The Slack app-level token (xapp-…), for socket mode."
    )
    signing_secret: SecretStr | None = Field(
        default=None, validation_alias="SLACK_SIGNING_SECRET", description="The Slack app's signing secret, for http mode."
    )
    client_id: str | None = Field(
        default=None,
        validation_alias="SLACK_CLIENT_ID",
        description="With the client secret: several workspaces, each installs by OAuth.",
    )
    client_secret: SecretStr | None = Field(
        default=None, validation_alias="SLACK_CLIENT_SECRET", description="The Slack app's client secret; see above."
    )
    mode: Annotated[Literal["socket", "http"], AnyCase] = Field(
        default="socket",
        description="socket needs no public address; http takes Slack's requests on the web page's port, under /slack/.",
    )
    allow: Entries = Field(
        default="", description="Who may use the bot on Slack, and where: team:ID channel:ID user:ID dm; empty admits everybody."
    )
    deny: Entries = Field(default="", description="Who may not, and where not, in the same words; it wins over the list above.")
    api_url: str | None = Field(
        default=None,
        description="Slack's Web API address, when it is another one than Slack's own, such as http://127.0.0.1:PORT/api/.",
    )

    @property
    def is_active(self) -> bool:
        return self.bot_token is not None or self.client_id is not None

    @property
    def remarks(self) -> tuple[str, ...]:
        if self.client_id is None or self.bot_token is None:
            return ()
        return ("SLACK_BOT_TOKEN is for one workspace, and has no effect beside SLACK_CLIENT_ID, which is for several.",)

    @field_validator("bot_token", "app_token")
    @classmethod
    def _kind_of_token(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        start = _TOKEN_STARTS[info.field_name or ""]
        if value is not None and not value.get_secret_value().startswith(start):
            raise ValueError(f"is another kind of token: this one starts with {start}")
        return value

    @field_validator("allow", "deny")
    @classmethod
    def _no_roles(cls, value: str) -> str:
        roles = [name for kind, name in parse_entries(value) if kind == "role"]
        if roles:
            raise ValueError(f"has the entry 'role:{roles[0]}', but Slack has no roles; write team:ID, channel:ID, user:ID or dm")
        return value

    @field_validator("api_url")
    @classmethod
    def _api_address(cls, value: str | None) -> str | None:
        return None if value is None else plain_address(value, "http://127.0.0.1:8000/api/")

    @model_validator(mode="after")
    def _what_belongs_together(self) -> SlackSettings:
        problems = []
        if (self.client_id is None) != (self.client_secret is None):
            problems.append("SLACK_CLIENT_ID and SLACK_CLIENT_SECRET belong together: set both, or none.")
        if self.is_active:
            if self.mode == "socket" and self.app_token is None:
                problems.append("SLACK_APP_TOKEN must be set for Slack's socket mode: an app-level token with connections:write.")
            if self.mode == "http" and self.signing_secret is None:
                problems.append("SLACK_SIGNING_SECRET must be set when THREADSIGHT_SLACK_MODE is http.")
        elif self.app_token is not None:
            problems.append("SLACK_BOT_TOKEN must be set too: SLACK_APP_TOKEN alone opens no workspace.")
        if problems:
            raise ValueError("\n".join(problems))
        return self
