"""The Discord application: the permissions that the bot needs and why, its invite links, and the steps to the first answer.

Does not need discord.py, so that it works before the extra is installed. Invite links:
https://discord.com/developers/docs/topics/oauth2#bot-authorization-flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from adapters.proxies import ProxyFor, no_proxy

API_URL = "https://discord.com/api/v10"
PORTAL = "https://discord.com/developers/applications"
_TIMEOUT = aiohttp.ClientTimeout(total=20)
WRONG_TOKEN = (
    f"Discord does not take DISCORD_TOKEN. Open {PORTAL}, choose the application, press “Reset Token” under “Bot”, "
    "and copy the new one."
)
_NOT_TOLD = "I could not ask Discord for your application's id, so put it into the links below. Is this machine online?"


@dataclass(frozen=True, slots=True)
class Permission:
    """`bit` is Discord's permission bit; `without` says what does not work without it, as the rest of a sentence that begins with
    "without it"."""

    name: str
    bit: int
    without: str


PERMISSIONS = (
    Permission("View Channels", 1 << 10, "I do not see any channel"),
    Permission("Send Messages", 1 << 11, "I cannot answer in channels"),
    Permission("Read Message History", 1 << 16, "I cannot reply, look back for a picture, or find what was asked while I was away"),
    Permission("Create Public Threads", 1 << 35, "I answer in the channel instead of a thread"),
    Permission("Send Messages in Threads", 1 << 38, "I cannot answer in threads"),
)
ADMINISTRATOR = 1 << 3


def missing_permissions(granted: int) -> tuple[Permission, ...]:
    """The needed permissions that are not among the bits of `granted`."""
    return () if granted & ADMINISTRATOR else tuple(p for p in PERMISSIONS if not granted & p.bit)


def invite_link(application_id: str) -> str:
    """The link for people who may add bots to a server."""
    wanted = sum(permission.bit for permission in PERMISSIONS)
    return (
        f"https://discord.com/oauth2/authorize?client_id={application_id}&permissions={wanted}"
        "&integration_type=0&scope=bot+applications.commands"
    )


def user_install_link(application_id: str) -> str:
    """The link for one person, who can then use the commands everywhere."""
    return f"https://discord.com/oauth2/authorize?client_id={application_id}&integration_type=1&scope=applications.commands"


def is_token(text: str) -> bool:
    """Whether the text can be sent as a token; one with a line break, for example, cannot."""
    return text.isascii() and text.strip().isprintable()


class ApplicationUnknown(Exception):
    """Discord did not say which application a token belongs to. The text is a sentence for the operator."""


async def application_id(token: str, api_url: str | None, proxy_for: ProxyFor = no_proxy) -> str:
    """Ask Discord for the application's id. Raises ApplicationUnknown."""
    if not is_token(token):
        raise ApplicationUnknown(WRONG_TOKEN)
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, proxy=proxy_for(api_url or API_URL)) as session:
            url = f"{(api_url or API_URL).rstrip('/')}/oauth2/applications/@me"
            async with session.get(url, headers={"Authorization": f"Bot {token.strip()}"}) as response:
                if response.status == 401:
                    raise ApplicationUnknown(WRONG_TOKEN)
                response.raise_for_status()
                return str((await response.json())["id"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
        raise ApplicationUnknown(_NOT_TOLD) from error


def setup_steps(application_id: str | None, remark: str | None = None) -> str:
    """The steps to set up the bot. Without an id the invite links have a placeholder. `remark`: what is wrong so far."""
    id_ = application_id or "APPLICATION_ID"
    where_id = "" if application_id else "\n   (APPLICATION_ID is under “General Information” in the portal.)"
    rights = "\n".join(f"     - {permission.name}: without it {permission.without}." for permission in PERMISSIONS)
    return f"""\
How to bring Threadsight to Discord
{f"{chr(10)}PROBLEM: {remark}{chr(10)}" if remark else ""}
1. Open {PORTAL}, press “New Application”, and give it a name.
2. “Bot”: press “Reset Token” and copy the token. Under “Privileged Gateway Intents” switch on “Message Content Intent”
   and save. (Without it I only see messages that mention me or reply to me.) The two others stay off.
3. “Installation”: leave “User Install” and “Guild Install” ticked.
4. Put the token into the file .env, in a line of its own, and show it to nobody:
     DISCORD_TOKEN=...
5. Open this link, choose your server, and agree:
     {invite_link(id_)}{where_id}
   It gives me exactly these permissions:
{rights}
6. To use /ask and the menus “Apps > …” on servers that I am not on, and in any direct message:
     {user_install_link(id_)}
7. Start me: make run. It installs what Discord needs, too. (Without make: threadsight run.)
8. In a channel, post a picture and mention me with a question. I answer in a thread; go on writing there.

If something does not work: threadsight doctor
"""
