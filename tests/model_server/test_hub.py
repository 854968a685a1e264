"""Files from a hub on loopback: pinned, resumed, offline, and every failure with a sentence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

from model_server.checkpoints.hub import Source, explained
from model_server.checkpoints.loading import load_checkpoint
from model_server.errors import ModelLoadError

COMMIT = "c" * 40
REVISIONS = ("main", "v1", COMMIT)


class Hub(ThreadingHTTPServer):
    """Serves `files` as the repository me/llava; `breaks_after` says after how many bytes each answer breaks off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.breaks_after: list[int] = []
        self.ranges: list[str | None] = []
        self.revisions: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:2] == ["me", "gated"]:
            return self._fail(403, "GatedRepo")
        if parts[:2] != ["me", "llava"] or parts[2:3] != ["resolve"]:
            return self._fail(404, "RepoNotFound" if parts[:1] != ["api"] else "EntryNotFound")
        self.server.revisions.add(parts[3])
        if parts[3] not in REVISIONS:
            return self._fail(404, "RevisionNotFound")
        content = self.server.files.get("/".join(parts[4:]))
        if content is None:
            return self._fail(404, "EntryNotFound")
        start = 0
        wanted = self.headers.get("Range")
        if wanted is not None:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.server.ranges.append(wanted)
            limits = self.server.breaks_after
            limit = len(content) if not limits else limits.pop(0) if len(limits) > 1 else limits[0]
            self.wfile.write(content[start : start + limit])
            self.close_connection = True
        return None

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's attempts
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(source: Source, name: str = "config.json") -> str:
    with pytest.raises(ModelLoadError) as caught, explained(source.path):
        source.file(name, is_needed=True)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_the_pinned_revision_is_read(hub: Hub) -> None:
    hub.files["config.json"] = json.dumps({"model_type": "llava"}).encode()
    source = Source("me/llava", "v1")
    assert source.settings() == {"model_type": "llava"}
    assert hub.revisions == {"v1"}
    assert source.arguments["revision"] == "v1"
    assert source.file("adapter_config.json") is None


def test_a_download_goes_on_where_the_connection_broke_off(hub: Hub) -> None:
    hub.files["model.safetensors"] = content = bytes(range(250)) * 80
    hub.breaks_after = [2500, 0, 7500, 20_000]
    file = Source("me/llava").file("model.safetensors", is_needed=True)
    assert file is not None
    assert file.read_bytes() == content
    assert hub.ranges == [None, "bytes=2500-", "bytes=2500-", "bytes=10000-"]


def test_a_download_that_fails_has_a_sentence_and_keeps_the_files_that_arrived(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"x" * 5000}
    source = Source("me/llava")
    assert source.settings() == {}
    hub.breaks_after = [2500, 0]
    message = refusal(source, "model.safetensors")
    assert "connection" in message
    assert "start again" in message
    hub.breaks_after, hub.ranges = [], []
    assert source.settings() == {}
    assert hub.ranges == []
    file = source.file("model.safetensors", is_needed=True)
    assert file is not None
    assert file.read_bytes() == hub.files["model.safetensors"]


def test_offline_takes_what_is_there_and_says_what_is_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["config.json"] = b"{}"
    source = Source("me/llava")
    assert source.settings() == {}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    num_answers = len(hub.ranges)
    assert source.settings() == {}
    assert source.file("adapter_config.json") is None
    message = refusal(source, "model.safetensors")
    assert "HF_HUB_OFFLINE" in message
    assert len(hub.ranges) == num_answers


def test_every_failure_has_its_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = b"{"
    assert "terms" in refusal(Source("me/gated"))
    assert "no such revision" in refusal(Source("me/llava", "v9"))
    assert "There is no me/nothing on the hub" in refusal(Source("me/nothing"))
    assert "no file model.safetensors" in refusal(Source("me/llava"), "model.safetensors")
    assert "no folder on this machine" in refusal(Source("/not/a/folder"))
    with pytest.raises(ModelLoadError, match=r"config\.json is damaged"):
        Source("me/llava").settings()
    with pytest.raises(ModelLoadError, match="disk is full"), explained("me/llava"):
        raise OSError(28, "No space left on device")
    hub.shutdown()
    hub.server_close()
    assert "connection" in refusal(Source("me/other"))


def test_what_a_checkpoint_refers_to(tmp_path: Path) -> None:
    for folder in ("model", "model/inside", "beside"):
        (tmp_path / folder).mkdir()
    source = Source(str(tmp_path / "model"))
    assert source.beside("inside") == Source(str(tmp_path / "model" / "inside"))
    assert source.beside("beside") == Source(str(tmp_path / "beside"))
    assert source.beside(str(tmp_path / "beside")) == Source(str(tmp_path / "beside"))
    assert source.beside("openai/clip") == Source("openai/clip")
    assert Source("me/llava", "v1").beside("openai/clip") == Source("openai/clip")


def test_a_whole_model_from_the_hub_at_a_revision(hub: Hub, random_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {file.name: file.read_bytes() for file in random_llava.iterdir()}
    loaded = load_checkpoint("me/llava", revision="v1")
    assert (loaded.name, loaded.context_length) == ("me/llava", 512)
    assert hub.revisions <= {"v1", COMMIT}
    hub.files = {}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_checkpoint("me/llava", revision="v1").context_length == 512
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE"):
        load_checkpoint("me/llava", revision="main")
