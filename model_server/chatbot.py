"""`LLaVAChatBot`: chat about a picture from a script or a notebook, in plain calls that block.

The class and its method names are those of the tutorial that this project grew from. It is a thin wrapper around the same
`InferenceLoop` that everything else uses, run on an event loop in its own thread, so that it also works where an event loop already
runs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import uuid
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from model_server.checkpoints import quantization
from model_server.checkpoints.loading import load_checkpoint
from model_server.errors import ImageError
from model_server.fetch import fetch_image_url
from model_server.images import MAX_BYTES, read_image
from model_server.loop import InferenceLoop
from model_server.packed.engine import PackedEngine
from model_server.prompt import PromptTemplate
from model_server.types import ChatRequest, Finished, Image, Message, Role, SamplingParams

T = TypeVar("T")
_log = logging.getLogger(__name__)
_NO_CHAT = "There is no chat yet. Start one with `start_new_chat`."


class LLaVAChatBot:
    """One chat about one picture at a time.

    `model_path` is a hub id, a folder, or `tiny` for the bundled model; `quant_kwargs` go to transformers' BitsAndBytesConfig.
    Raises `ModelLoadError`. Close it, or use it as a context manager, to free the model.
    """

    def __init__(
        self,
        model_path: str = "llava-hf/llava-1.5-7b-hf",
        device_map: str = "auto",
        load_in_8_bit: bool = True,
        **quant_kwargs: Any,
    ) -> None:
        self._messages: list[Message] | None = None
        self._system: str | None = None
        self._image: Image | None = None
        self._template: PromptTemplate | None = None
        self._inference: InferenceLoop | None = None
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._events.run_forever, name="threadsight-chatbot", daemon=True)
        self._thread.start()  # a daemon, like the engine's thread: a script that never calls `close` still exits
        try:
            self.load_models(model_path, device_map=device_map, load_in_8_bit=load_in_8_bit, **quant_kwargs)
        except BaseException:
            self.close()
            raise

    def load_models(self, model_path: str, device_map: str = "auto", load_in_8_bit: bool = True, **quant_kwargs: Any) -> None:
        """Load a model. The one loaded before is freed, and its chat forgotten. Raises `ModelLoadError`."""
        load_in_8_bit = load_in_8_bit and not quant_kwargs.get("load_in_4bit")
        if load_in_8_bit and not torch.cuda.is_available() and not quantization.is_available():
            _log.warning("8 bit needs the extra `quantization`: the model is used in full precision.")
            load_in_8_bit = False  # it is the default, and must not make a first try fail
        options = {"load_in_8bit": load_in_8_bit, **quant_kwargs}
        self._let_go()
        self._messages = None
        checkpoint = load_checkpoint(model_path, quantization=options, device_map=device_map)
        self._template = checkpoint.template
        self._inference = self._wait(_started(PackedEngine(checkpoint, max_running=1)))

    def setup_image(self, img_path: str | Path) -> None:
        """Take the picture for the next chat from a file or an http(s) link. Raises `ImageError`."""
        text = str(img_path)
        if text.startswith(("http://", "https://")):
            self._image = read_image(self._wait(fetch_image_url(text)), text.partition("?")[0].rpartition("/")[2] or "the link")
        else:
            self._image = read_image(_read_file(Path(img_path)), Path(img_path).name)

    def start_new_chat(
        self,
        img_path: str | Path,
        prompt: str,
        do_sample: bool = True,
        temperature: float = 0.2,
        max_new_tokens: int = 1024,
        use_cache: bool = True,
        system: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Forget the last chat, ask `prompt` about a picture, and return the answer. Raises a `ModelServerError`.

        `system` replaces the template's own system text. `kwargs` can be `top_p` and `top_k`. `use_cache` is accepted as in the
        tutorial and ignored: keys and values are always cached.
        """
        sampling = _sampling(do_sample, temperature, max_new_tokens, kwargs)
        self.setup_image(img_path)
        assert self._image is not None
        self._messages, self._system = [Message(Role.USER, prompt, (self._image,))], system
        try:
            return self.generate_answer(sampling)
        except BaseException:
            self._messages = None
            raise

    def continue_chat(
        self,
        prompt: str,
        do_sample: bool = True,
        temperature: float = 0.2,
        max_new_tokens: int = 1024,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> str:
        """Ask again in the same chat, and return the answer. Raises RuntimeError when there is no chat; otherwise as
        `start_new_chat`."""
        if self._messages is None:
            raise RuntimeError(_NO_CHAT)
        sampling = _sampling(do_sample, temperature, max_new_tokens, kwargs)
        self._messages.append(Message(Role.USER, prompt))
        try:
            return self.generate_answer(sampling)
        except BaseException:
            self._messages.pop()
            raise

    def generate_answer(self, sampling: SamplingParams | None = None) -> str:
        """Answer the chat's last question; `start_new_chat` and `continue_chat` call it."""
        if not self._messages or self._messages[-1].role is not Role.USER:
            raise RuntimeError(_NO_CHAT)
        request = ChatRequest(uuid.uuid4().hex, tuple(self._messages), sampling or SamplingParams(), self._system)
        finished = self._wait(self._answer(request))
        self._messages.append(Message(Role.ASSISTANT, finished.text.strip(), token_ids=finished.token_ids))
        return finished.text.strip()

    def get_conv_text(self) -> str:
        """The whole chat as the model reads it, with `<image>` in the picture's place."""
        if self._messages is None or self._template is None:
            raise RuntimeError(_NO_CHAT)
        return self._template.text(self._messages, self._system)

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        if self._events.is_closed():
            return
        self._let_go()
        self._events.call_soon_threadsafe(self._events.stop)
        self._thread.join()
        self._events.close()

    def __enter__(self) -> LLaVAChatBot:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _let_go(self) -> None:
        """Free the model's memory now, because another model may be loaded next."""
        if self._inference is not None:
            self._wait(self._inference.close())
            self._inference = None
            gc.collect()  # the loop and its engine reference each other
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    async def _answer(self, request: ChatRequest) -> Finished:
        if self._inference is None:
            raise RuntimeError("This chat bot was closed.")
        async with self._inference.submit(request) as stream:
            async for event in stream:
                if isinstance(event, Finished):
                    return event
        raise AssertionError("a stream ends with Finished or raises")

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._events.is_closed():
            work.close()
            raise RuntimeError("This chat bot was closed.")
        future = asyncio.run_coroutine_threadsafe(work, self._events)
        try:
            return future.result()
        except BaseException:  # Ctrl-C while waiting stops the answer too
            future.cancel()
            raise


async def _started(engine: PackedEngine) -> InferenceLoop:
    loop = InferenceLoop(engine, max_running=1)
    await loop.start()
    return loop


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # one more than allowed, so that read_image refuses it
    except FileNotFoundError:
        raise ImageError(path.name, "there is no such file.") from None
    except OSError as error:
        raise ImageError(path.name, "the file cannot be read.") from error


def _sampling(do_sample: bool, temperature: float, max_new_tokens: int, others: dict[str, Any]) -> SamplingParams:
    unknown = sorted(others.keys() - {"top_p", "top_k"})
    if unknown:
        raise TypeError(f"these sampling arguments are not supported: {', '.join(unknown)}")
    return SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature if do_sample else 0.0, **others)
