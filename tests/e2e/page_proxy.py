"""The real nginx and Caddy before the page, with the configuration that docs/operating.md prints and a certificate of our own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "operating.md"
NAME = "home.example"
START_SECONDS = 60
_NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr notice;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"""


def printed(kind: str) -> list[str]:
    """The document's blocks of one kind, `nginx` or `caddyfile`, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def nginx_in_a_folder() -> str:
    """nginx's second configuration, put together as the document says."""
    site, folder = printed("nginx")
    lines = "    location / {\n        proxy_pass http://127.0.0.1:8080;\n"
    assert lines in site
    return site.replace(lines, folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.asynccontextmanager
async def proxy(kind: str, configuration: str, folder: Path, port: int, page_port: int) -> AsyncIterator[None]:
    """Run `nginx` or `caddy` on a port, before the page on another. Skips the test if it is not installed."""
    program = shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no {kind} was found, and here it must be tried")
        pytest.skip(f"no {kind} on this machine, or no openssl for its certificate")
    make = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME} -keyout key -out cert"
    await asyncio.to_thread(subprocess.run, ["openssl", *make.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    site = configuration.replace("127.0.0.1:8080", f"127.0.0.1:{page_port}")
    if kind == "nginx":
        site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        site = re.sub(r"/etc/letsencrypt/\S+/fullchain.pem", f"{folder}/cert", site)
        site = re.sub(r"/etc/letsencrypt/\S+/privkey.pem", f"{folder}/key", site)
        text = _NGINX.format(folder=folder, site=site, user="user root;" if os.geteuid() == 0 else "")
        command, ready = [program, "-p", str(folder), "-c", str(folder / "site")], b"start worker process"
    else:
        tls = f"    tls {folder}/cert {folder}/key\n"
        site = site.replace(f"{NAME} {{\n", f"{NAME}:{port} {{\n    bind 127.0.0.1\n{tls}")
        text = f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{site}"
        command, ready = (
            [program, "run", "--config", str(folder / "site"), "--adapter", "caddyfile"],
            b"serving initial configuration",
        )
    (folder / "site").write_text(text, "utf-8")
    home = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    running = await asyncio.create_subprocess_exec(*command, env=home, stderr=asyncio.subprocess.PIPE)
    assert running.stderr is not None
    reading: asyncio.Task[bytes] | None = None
    try:
        said = b""
        async with asyncio.timeout(START_SECONDS):
            while ready not in said:
                line = await running.stderr.readline()
                assert line, f"{kind} ended: {said.decode()}"
                said += line
        reading = asyncio.create_task(running.stderr.read())  # a full pipe would block it
        yield
    finally:
        if running.returncode is None:
            running.terminate()  # not kill: nginx would leave its worker behind
        await running.wait()
        if reading is not None:
            await reading
