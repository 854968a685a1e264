"""The list of platforms, and what the program does with all that are set up. Each is one line here, and described in its folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from adapters.base import Adapter, AdapterError, Finding
from adapters.discord.platform import PLATFORM as DISCORD
from adapters.platform import Host, PlatformDescription
from adapters.settings import PlatformSettings
from adapters.slack.platform import PLATFORM as SLACK
from adapters.web.platform import PLATFORM as WEB

PLATFORMS: tuple[PlatformDescription[Any], ...] = (DISCORD, SLACK, WEB)

AllSettings = Mapping[str, PlatformSettings]
"""Settings by platform name; a missing one has its defaults."""


def platform_adapters(all_settings: AllSettings, host: Host) -> list[Adapter]:
    """Make the adapters of the platforms that are set up. Raises AdapterError, for example if a platform's package is missing."""
    adapters = []
    for platform, settings in _active(all_settings):
        try:
            adapters.append(platform.make(settings, host))
        except ModuleNotFoundError as error:
            if platform.extra is None:
                raise
            raise AdapterError(_missing_package(platform)) from error
    return adapters


async def check_platforms(all_settings: AllSettings, host: Host) -> AsyncIterator[Finding]:
    """Yields what a start of the platforms that are set up would find."""
    for platform, settings in _active(all_settings):
        try:
            async for finding in platform.check(settings, host):
                yield finding
        except ModuleNotFoundError:
            if platform.extra is None:
                raise
            yield Finding(platform.title, False, _missing_package(platform))


async def setup_steps(all_settings: AllSettings, host: Host, name: str, flags: frozenset[str]) -> str:
    """The steps to set up the named platform. Raises LookupError if it has none."""
    for platform in PLATFORMS:
        if platform.name == name and platform.setup_steps is not None:
            return await platform.setup_steps(_settings_of(all_settings, platform), host, flags)
    raise LookupError(name)


def _active(all_settings: AllSettings) -> Iterator[tuple[PlatformDescription[Any], Any]]:
    for platform in PLATFORMS:
        settings = _settings_of(all_settings, platform)
        if settings.is_active:
            yield platform, settings


def _settings_of(all_settings: AllSettings, platform: PlatformDescription[Any]) -> Any:
    return all_settings[platform.name] if platform.name in all_settings else platform.settings()


def _missing_package(platform: PlatformDescription[Any]) -> str:
    return (
        f"{platform.title} is set up, but a package for it is not installed. `make install` adds it now that the token is there; "
        f"without make it is pip install '.[{platform.extra}]' in Threadsight's folder."
    )
