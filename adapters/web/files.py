"""The page's own files, from memory: a visitor who takes nothing of one holds up no thread and no descriptor."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from aiohttp import web

STATIC_FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"


class StaticFiles:
    """The files of a folder as they were at the start, at `/static/`, and the page itself at `/`."""

    def __init__(self, folder: Path = STATIC_FOLDER) -> None:
        self._files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes for the files."""
        router.add_get("/", self._index)
        router.add_get("/static/{name}", self._file)

    async def _index(self, request: web.Request) -> web.Response:
        return self._response(request, INDEX)

    async def _file(self, request: web.Request) -> web.Response:
        return self._response(request, request.match_info["name"])

    def _response(self, request: web.Request, name: str) -> web.Response:
        data = self._files.get(name)
        if data is None:
            raise web.HTTPNotFound
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        media_type, _ = mimetypes.guess_type(name)
        return web.Response(
            body=data, content_type=media_type or "application/octet-stream", charset="utf-8", headers={"ETag": etag}
        )
