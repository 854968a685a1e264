"""An invented platform: everything that the program has to know about it is in this folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic import Field, SecretStr, field_validator, model_validator

from adapters.base import Adapter, Ended, Finding, ThreadHandler
from adapters.platform import Host, PlatformDescription
from adapters.settings import PlatformSettings, secret
from tests.bot.doubles import attachment, message, png


class PigeonSettings(PlatformSettings):
    key: SecretStr | None = Field(default=None, validation_alias="PIGEONS_KEY", description="The key of the dovecote.")
    num_grains: int = Field(default=3, ge=1, description="How many grains each pigeon gets.")
    is_by_night: bool = Field(default=False, description="Whether they fly by night.")

    @property
    def is_active(self) -> bool:
        return self.key is not None

    @property
    def remarks(self) -> tuple[str, ...]:
        is_in_vain = self.num_grains > 10 and self.key is None
        return ("THREADSIGHT_PIGEONS_NUM_GRAINS feeds nobody.",) if is_in_vain else ()

    @field_validator("key")
    @classmethod
    def _brass_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith("brass-"):
            raise ValueError("is not of brass")
        return value

    @model_validator(mode="after")
    def _nights_are_long(self) -> PigeonSettings:
        if self.is_by_night and self.num_grains < 5:
            raise ValueError("THREADSIGHT_PIGEONS_NUM_GRAINS must be at least 5 by night.")
        return self


class PigeonAdapter:
    """Asks one question as soon as it runs; `started` is set when the answer is complete."""

    name = "pigeons"

    def __init__(self, key: str, max_image_bytes: int) -> None:
        self.where = f"the dovecote ({len(key)}, {max_image_bytes})"
        self.remarks: tuple[str, ...] = ()
        self.started = asyncio.Event()

    async def run(self, handler: ThreadHandler) -> None:
        answer = await handler.handle(message("What is this?", attachment(png())))
        async for event in answer.events():
            if isinstance(event, Ended):
                self.started.set()
        await asyncio.Event().wait()


def _make(settings: PigeonSettings, host: Host) -> Adapter:
    return PigeonAdapter(secret(settings.key) or "", host.max_image_bytes)


async def _check(settings: PigeonSettings, host: Host) -> AsyncIterator[Finding]:
    yield Finding("Pigeons", settings.num_grains > 1, f"{settings.num_grains} grains for each.")


async def _setup_steps(settings: PigeonSettings, host: Host, flags: frozenset[str]) -> str:
    return f"1. Build a dovecote{' with a roof' if 'roof' in flags else ''}.\n2. Wait."


PLATFORM = PlatformDescription(
    name="pigeons",
    title="Pigeons",
    settings=PigeonSettings,
    make=_make,
    check=_check,
    setup_steps=_setup_steps,
    setup_flags={"roof": "pigeons that do not like rain"},
    extra="pigeons",
)
