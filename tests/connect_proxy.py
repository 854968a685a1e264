"""A small HTTP proxy on loopback, which writes down what went through it.

It serves CONNECT and absolute addresses, as forward proxies do. Whatever name is wanted, it connects to the same port of 127.0.0.1:
the names of the tests exist nowhere.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class ConnectProxy:
    """`asked` has "CONNECT host:port" or "METHOD http://host:port" for every connection, and `said` all that clients sent.

    With `password` (`user:password`) it wants it. With `status` it refuses everything.
    """

    password: str | None = None
    status: int | None = None
    asked: list[str] = field(default_factory=list)
    said: bytearray = field(default_factory=bytearray)
    url: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def for_url(self, _url: str) -> str:
        """A `ProxyFor` that leads even loopback addresses through it."""
        return self.url

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[ConnectProxy]:
        server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        login = f"{self.password}@" if self.password else ""
        self.url = f"http://{login}127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond: asyncio.StreamWriter | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.said += head
            text = head.decode("latin-1")
            method, target = text.split()[:2]
            wanted = urlsplit(f"//{target}" if method == "CONNECT" else target)
            self.asked.append(f"CONNECT {target}" if method == "CONNECT" else f"{method} http://{wanted.netloc}")
            refusal = self.status or (407 if self._is_locked(text) else None)
            if refusal is None:
                try:
                    from_beyond, beyond = await asyncio.open_connection("127.0.0.1", wanted.port or 80)
                except OSError:
                    refusal = 502
            if refusal is not None or beyond is None:
                writer.write(f"HTTP/1.1 {refusal} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                return
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                beyond.write(head)
            await asyncio.gather(self._pour(reader, beyond, self.said), self._pour(from_beyond, writer, bytearray()))
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of them left
        finally:
            writer.close()
            if beyond is not None:
                beyond.close()

    def _is_locked(self, head: str) -> bool:
        if self.password is None:
            return False
        return f"Proxy-Authorization: Basic {base64.b64encode(self.password.encode()).decode()}" not in head

    @staticmethod
    async def _pour(source: asyncio.StreamReader, into: asyncio.StreamWriter, copy: bytearray) -> None:
        while data := await source.read(65536):
            copy += data
            into.write(data)
            await into.drain()
        into.close()
