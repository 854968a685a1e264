"""FIELD: HTTPS_PROXY. Everything that leaves this machine goes through the proxy, as a real little one on loopback has seen it."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from adapters.discord.checks import check as check_discord
from adapters.discord.setup import application_id
from adapters.slack.checks import check as check_slack
from bot.config import SettingsError, load_settings
from bot.doctor import check_proxies
from bot.log_format import LogFormat
from bot.proxies import Proxies, read_proxies
from model_server.errors import ImageError
from model_server.fetch import fetch_image_url, is_public_address
from model_server.remote.connection import Connection, NotYet, RemoteServer
from tests.adapters.discord_world import World as DiscordWorld
from tests.adapters.discord_world import world as discord_world
from tests.adapters.slack_world import slack_world, within
from tests.chat_handler import draw_image
from tests.connect_proxy import ConnectProxy
from tests.model_server.test_fetch import FixedResolver

PROXY = "http://proxy.example:3128"
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def proxy() -> AsyncIterator[ConnectProxy]:
    async with ConnectProxy().serving() as proxy:
        yield proxy


# -- which way an address is reached

WAYS = [
    ({"HTTPS_PROXY": PROXY}, "https://slack.com/api/", PROXY),
    ({"HTTPS_PROXY": PROXY}, "wss://gateway.discord.gg/", PROXY),
    ({"HTTPS_PROXY": PROXY}, "http://models.example/v1", None),
    ({"HTTP_PROXY": PROXY}, "http://models.example/v1", PROXY),
    ({"HTTP_PROXY": PROXY}, "ws://models.example/", PROXY),
    ({"HTTP_PROXY": PROXY}, "https://slack.com/api/", None),
    ({"ALL_PROXY": PROXY}, "https://slack.com/api/", PROXY),
    ({"ALL_PROXY": PROXY}, "http://models.example/v1", PROXY),
    ({"ALL_PROXY": "http://all.example:1", "HTTPS_PROXY": PROXY}, "https://slack.com/", PROXY),
    ({"ALL_PROXY": "socks5://all.example:1", "HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY}, "https://slack.com/", PROXY),
    ({"https_proxy": PROXY}, "https://slack.com/api/", PROXY),
    ({"HTTPS_PROXY": "http://upper.example:1", "https_proxy": PROXY}, "https://slack.com/", PROXY),
    ({"HTTPS_PROXY": "proxy.example:3128"}, "https://slack.com/", PROXY),
    ({"HTTPS_PROXY": f" {PROXY}/ "}, "https://slack.com/", PROXY),
    ({"HTTPS_PROXY": "https://proxy.example"}, "https://slack.com/", "https://proxy.example"),
    ({"HTTPS_PROXY": "http://me:p%40ss@proxy.example:1"}, "https://slack.com/", "http://me:p%40ss@proxy.example:1"),
    ({"HTTPS_PROXY": ""}, "https://slack.com/", None),
    ({}, "https://slack.com/", None),
]


@pytest.mark.parametrize(("variables", "url", "proxy_url"), WAYS)
def test_the_variables_say_which_proxy(
    variables: dict[str, str], url: str, proxy_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings(None).proxies.for_url(url) == proxy_url


DIRECT = [
    ("", "http://127.0.0.1:8000/v1"),  # this machine is never asked through a proxy
    ("", "http://localhost:8000/v1"),
    ("", "http://LOCALHOST./v1"),
    ("", "http://engine.localhost/v1"),
    ("", "http://[::1]:8000/v1"),
    ("", "http://127.9.9.9/v1"),
    ("slack.com", "https://slack.com/api/"),
    ("slack.com", "https://files.slack.com/a"),
    (".slack.com", "https://files.slack.com/a"),
    (".slack.com", "https://slack.com/"),
    ("*.slack.com", "https://files.slack.com/a"),
    ("SLACK.com", "https://slack.COM./"),
    ("a.example, slack.com", "https://slack.com/"),
    ("a.example slack.com", "https://slack.com/"),
    ("*", "https://slack.com/"),
    ("192.168.1.5", "http://192.168.1.5:8000/v1"),
    ("192.168.0.0/16", "http://192.168.1.5:8000/v1"),
    ("fd00::/8", "http://[fd12::1]:8000/v1"),
    ("fd12::1", "http://[fd12:0::1]/v1"),
    ("[fd12::1]", "http://[fd12::1]/v1"),
    ("gpu.lan:8000", "http://gpu.lan:8000/v1"),
    ("gpu.lan:80", "http://gpu.lan/v1"),
    ("[fd12::1]:8000", "http://[fd12::1]:8000/v1"),
]


@pytest.mark.parametrize(("exceptions", "url"), DIRECT)
def test_no_proxy_names_what_is_reached_directly(exceptions: str, url: str) -> None:
    proxies, problems = read_proxies({"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "NO_PROXY": exceptions})
    assert (proxies.for_url(url), problems) == (None, [])


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("slack.com", "https://myslack.com/"),
        ("slack.com", "https://slack.com.evil.example/"),
        ("gpu.lan:8000", "http://gpu.lan:8001/v1"),
        ("192.168.0.0/16", "http://192.169.1.5/v1"),
        ("192.168.0.0/99", "http://192.168.1.5/v1"),
        (",., ", "https://slack.com/"),
        ("localhost", "https://127.0.0.1.evil.example/"),
    ],
)
def test_no_proxy_means_nothing_else(exceptions: str, url: str) -> None:
    proxies, _ = read_proxies({"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "NO_PROXY": exceptions})
    assert proxies.for_url(url) == PROXY


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("socks5://proxy.example:1080", "SOCKS"),
        ("socks5h://me:hunter2@proxy.example:1080", "SOCKS"),
        ("ftp://proxy.example", "not a proxy's address"),
        ("http://", "not a proxy's address"),
        ("http://proxy.example:port", "not a proxy's address"),
        ("http://proxy.example:99999", "not a proxy's address"),
        ("http://me:hunter2#x@proxy.example:3128", "%23"),
        ("http://me:hunter2/x@proxy.example:3128", "%2F"),
        ("http://proxy.example:3128/path?hunter2", "not a proxy's address"),
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_wrong_proxy_is_refused_by_name_at_the_start(value: str, words: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    [problem] = caught.value.problems
    assert problem.startswith(f"{name.upper()} ")
    assert words in problem
    assert "hunter2" not in problem


def test_a_proxy_may_be_in_the_env_file_and_every_library_gets_the_same(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HTTPS_PROXY=proxy.example:3128\nNO_PROXY=hub.example\nALL_PROXY=http://other.example:1\n")
    code = (
        "from bot.config import hand_on_proxies, load_settings\n"
        "hand_on_proxies(load_settings())\n"
        "from httpx2._utils import get_environment_proxies as ways\n"  # what huggingface_hub uses
        "print(sorted((key, value) for key, value in ways().items()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "https_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert f"('https://', '{PROXY}')" in done.stdout
    assert "('http://', 'http://other.example:1')" in done.stdout
    assert "all://*hub.example', None" in done.stdout
    assert "all://127.0.0.1', None" in done.stdout
    assert "('all://'," not in done.stdout


# -- what doctor says


async def sentences(proxies: Proxies) -> list[tuple[bool, str]]:
    return [(finding.is_good, finding.sentence) async for finding in check_proxies(proxies)]


async def test_without_a_proxy_there_is_nothing_to_say() -> None:
    assert await sentences(Proxies()) == []


async def test_doctor_says_which_proxy_is_used_without_its_password() -> None:
    async with ConnectProxy(password="me:hunter2").serving() as proxy:
        proxies, _ = read_proxies({"HTTPS_PROXY": proxy.url, "NO_PROXY": "gpu.lan"})
        shown = proxy.url.replace("me:hunter2@", "")
        assert await sentences(proxies) == [
            (True, f"https goes through {shown} (HTTPS_PROXY) and http goes directly; reached directly: this machine, gpu.lan.")
        ]
        assert "hunter2" not in repr(proxies)


async def test_doctor_says_when_the_proxy_does_not_let_us_in() -> None:
    async with ConnectProxy(password="me:hunter2").serving() as proxy:
        proxies, _ = read_proxies({"HTTPS_PROXY": proxy.url.replace("hunter2", "wrong")})
        _, (is_good, sentence) = await sentences(proxies)
    assert not is_good
    assert "user name and password" in sentence
    assert "wrong" not in sentence


async def test_doctor_says_when_nothing_answers_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxies, _ = read_proxies({"ALL_PROXY": f"http://127.0.0.1:{port}"})
    [_, (is_good, sentence)] = await sentences(proxies)
    assert (is_good, sentence) == (False, f"ALL_PROXY: nothing answers at http://127.0.0.1:{port}.")


async def test_doctor_says_when_it_is_no_proxy() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        proxies, _ = read_proxies({"HTTPS_PROXY": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"})
        _, (is_good, sentence) = await sentences(proxies)
    assert not is_good
    assert "is not a proxy" in sentence


async def test_its_password_is_in_no_log_whoever_writes_it() -> None:
    """Slack's and Discord's packages log such errors with their text and traceback."""
    async with ConnectProxy(status=407).serving() as proxy, aiohttp.ClientSession() as session:
        try:
            await session.get("https://slack.test/", proxy=proxy.url.replace("//", "//me:hunter2@"))
        except aiohttp.ClientHttpProxyError as error:
            record = logging.LogRecord("x", logging.ERROR, __file__, 1, "Failed: %s %r", (error, error), sys.exc_info())
    assert "hunter2" in logging.Formatter().format(record)
    shown = LogFormat().format(record)
    assert "hunter2" not in shown
    assert base64.b64encode(b"me:hunter2").decode() not in shown
    assert "//***@127.0.0.1" in shown
    plain = logging.LogRecord("x", logging.INFO, __file__, 1, "https://a.example/@me, a@b.example", (), None)
    assert LogFormat().format(plain).endswith("INFO x: https://a.example/@me, a@b.example")


# -- what goes through it


async def test_slack_goes_through_it_with_its_socket_and_its_files(proxy: ConnectProxy) -> None:
    async with slack_world(proxy_for=proxy.for_url) as w:
        await w.answered()
        picture = w.handler.messages[0].attachments[0]
        assert await picture.fetch(10**7) == w.image
        await w.slack.slash(w.ann, w.general, "/threadsight", "quota")
        host = w.slack.api_url.removesuffix("/api/").encode()
        await within(w.slack.wait_for(lambda: b"POST %s/response/" % host in proxy.said))  # what answers a command
    assert b"POST %s/api/chat." % host in proxy.said
    assert b"GET %s/files" % host in proxy.said
    assert b"\r\nUpgrade: websocket\r\n" in proxy.said


async def test_discord_goes_through_it_with_its_gateway_and_its_files(proxy: ConnectProxy) -> None:
    async with discord_world(proxy_for=proxy.for_url) as w:
        assert isinstance(w, DiscordWorld)
        await w.ask()
        await w.answered()
        assert await w.handler.messages[0].attachments[0].fetch(10**7) == draw_image()
    host = "/".join(w.discord.api_url.split("/")[:3]).encode()
    assert b"GET %s/api/v10/users/@me" % host in proxy.said
    assert b"POST %s/api/v10/channels/" % host in proxy.said
    assert b"GET %s/cdn/" % host in proxy.said
    assert b"\r\nUpgrade: websocket\r\n" in proxy.said


async def test_without_it_slacks_package_does_not_take_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads HTTPS_PROXY, even for this machine and for what NO_PROXY names."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with slack_world() as w:
        await w.answered()


async def test_what_doctor_and_setup_ask_goes_through_it(proxy: ConnectProxy) -> None:
    async with slack_world() as w:
        found = [
            each
            async for each in check_slack(w.slack.bot_token, w.slack.app_token, api_url=w.slack.api_url, proxy_for=proxy.for_url)
        ]
    assert all(each.is_good for each in found)
    assert len(proxy.asked) >= 2
    proxy.asked.clear()
    async with discord_world() as d:
        token = d.adapter._token
        urls = {"api_url": d.discord.api_url, "gateway_url": d.discord.gateway_url}
        found = [each async for each in check_discord(token, **urls, proxy_for=proxy.for_url)]
        assert await application_id(token, d.discord.api_url, proxy.for_url)
    assert not [each for each in found if "reached" in each.sentence or "Nothing answers" in each.sentence]
    assert len(proxy.asked) >= 3


async def test_a_model_server_elsewhere_is_asked_through_it(proxy: ConnectProxy) -> None:
    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "llava"}]})

    runner = web.AppRunner(web.Application())
    runner.app.router.add_get("/v1/models", models)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    connection = Connection(RemoteServer(f"http://gpu.test:{port}/v1", "key", proxy=proxy.url))
    try:
        assert (await connection.served_model()).name == "llava"
        assert proxy.asked == [f"GET http://gpu.test:{port}"]
    finally:
        await connection.close()
        await runner.cleanup()


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_model_server_that_the_proxy_does_not_reach_is_away(status: int, caplog: pytest.LogCaptureFixture) -> None:
    async with ConnectProxy(status=status).serving() as proxy:
        connection = Connection(RemoteServer("https://gpu.test/v1", "key", proxy=proxy.url.replace("//", "//me:hunter2@")))
        try:
            with pytest.raises(NotYet):
                await connection.served_model()
        finally:
            await connection.close()
    assert f"status {status}" in caplog.text
    assert "hunter2" not in caplog.text


# -- links that people send: resolved and checked here, and only then through the proxy


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[int, list[str]]]:
    """The port of an https server for pictures.example, whose certificate is trusted here, and the hosts that it is asked for."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    make = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -addext subjectAltName=DNS:pictures.example -keyout key -out cert"
    await asyncio.to_thread(subprocess.run, ["openssl", *make.split()], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert"))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.host)
        if request.path == "/inside":
            raise web.HTTPFound(request.query["to"])
        return web.Response(body=b"bytes")

    runner = web.AppRunner(web.Application())
    runner.app.router.add_get("/{path:.*}", answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield runner.addresses[0][1], asked
    await runner.cleanup()


async def test_a_link_goes_to_the_checked_address_by_its_name(proxy: ConnectProxy, site: tuple[int, list[str]]) -> None:
    port, asked = site
    url = f"https://pictures.example:{port}/a.png"
    resolver = FixedResolver("2606:4700::1 93.184.216.34")
    assert await fetch_image_url(url, resolver=resolver, proxy_for=proxy.for_url) == b"bytes"
    assert proxy.asked == [f"CONNECT 93.184.216.34:{port}"]  # the proxy looks up nothing
    assert asked == [f"pictures.example:{port}"]
    assert resolver.asked == ["pictures.example"]


async def test_its_certificate_is_checked_by_its_name(proxy: ConnectProxy, site: tuple[int, list[str]]) -> None:
    port, asked = site
    with pytest.raises(ImageError):
        await fetch_image_url(f"https://other.example:{port}/", resolver=FixedResolver("93.184.216.34"), proxy_for=proxy.for_url)
    assert asked == []


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://pictures.example/", "10.0.0.7"),
        ("https://pictures.example/", "93.184.216.34 10.0.0.7"),
        ("https://pictures.example/", "::ffff:127.0.0.1"),
        ("https://127.0.0.1/", "127.0.0.1"),
        ("https://[::1]/", "::1"),
        ("https://localhost/", "127.0.0.1"),
        ("https://169.254.169.254/latest", "169.254.169.254"),
        ("http://10.0.0.7/", "10.0.0.7"),
    ],
)
async def test_private_addresses_stay_refused(proxy: ConnectProxy, url: str, address: str) -> None:
    with pytest.raises(ImageError, match="private or local"):
        await fetch_image_url(url, resolver=FixedResolver(address), proxy_for=proxy.for_url)
    assert proxy.asked == []


async def test_a_redirect_inside_stays_refused(proxy: ConnectProxy, site: tuple[int, list[str]]) -> None:
    port, _ = site
    for to in ("https://169.254.169.254/", "http://127.0.0.1/", "https://intranet.example/"):
        resolver = FixedResolver("93.184.216.34", "10.0.0.1")
        with pytest.raises(ImageError, match="private or local"):
            await fetch_image_url(f"https://pictures.example:{port}/inside?to={to}", resolver=resolver, proxy_for=proxy.for_url)
    assert set(proxy.asked) == {f"CONNECT 93.184.216.34:{port}"}


async def test_http_links_are_refused_with_a_sentence(proxy: ConnectProxy) -> None:
    with pytest.raises(ImageError, match="only https links"):
        await fetch_image_url("http://pictures.example/", resolver=FixedResolver("93.184.216.34"), proxy_for=proxy.for_url)
    assert proxy.asked == []


async def test_a_link_that_no_proxy_names_goes_directly(site: tuple[int, list[str]]) -> None:
    port, asked = site
    proxies, _ = read_proxies({"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "pictures.example"})
    found = await fetch_image_url(
        f"https://pictures.example:{port}/",
        resolver=FixedResolver("127.0.0.1"),
        is_allowed=lambda address: address == ipaddress.ip_address("127.0.0.1") or is_public_address(address),
        proxy_for=proxies.for_url,
    )
    assert (found, asked) == (b"bytes", [f"pictures.example:{port}"])


async def test_what_the_proxy_refuses_is_told() -> None:
    async with ConnectProxy(status=403).serving() as proxy:
        with pytest.raises(ImageError, match="did not let me reach it \\(status 403\\)"):
            await fetch_image_url("https://a.example/", resolver=FixedResolver("93.184.216.34"), proxy_for=proxy.for_url)
    with pytest.raises(ImageError, match="proxy of this machine cannot be reached"):
        await fetch_image_url("https://a.example/", resolver=FixedResolver("93.184.216.34"), proxy_for=proxy.for_url)


async def test_an_unknown_name_is_told(proxy: ConnectProxy) -> None:
    with pytest.raises(ImageError, match="host name is not known"):
        await fetch_image_url("https://threadsight.invalid/", proxy_for=proxy.for_url)
    assert proxy.asked == []
