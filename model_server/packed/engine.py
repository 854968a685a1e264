"""The engine on this machine: all chats in one forward pass, each token computed once.

A step computes one token of every answer that is being written, and a bounded number of prompt tokens, in order of arrival: so no
answer waits for another's prompt. Pictures are token ids (model_server/vision.py). The model's own code runs unchanged; only its
attention is ours (attention.py), over the keys and values of all chats (cache.py). One thread runs all steps.
"""

from __future__ import annotations

import atexit
import gc
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from model_server.checkpoints.loading import Checkpoint
from model_server.detokenizer import Detokenizer
from model_server.engine import EngineOutput, OnFailure, OnOutputs
from model_server.errors import EngineFailed, ModelLoadError
from model_server.packed.attention import PackedBatch, use_packed_attention
from model_server.packed.cache import UNIT, Extent, PackedCache, make_cache, units
from model_server.packed.sampling import choose, make_generator
from model_server.types import FinishReason, Image, Message, ModelCapabilities, SamplingParams
from model_server.vision import BLOCK_ROWS, ImageStore, num_prompt_tokens

_NUM_IMAGES = 64  # kept encoded, within _MAX_IMAGE_BYTES
_MAX_IMAGE_BYTES = 512 * 1024**2
_PROMPT_TOKENS_PER_STEP = {"cuda": 2048, "cpu": 256}


@dataclass(slots=True, eq=False)
class _Request:
    request_id: str
    ids: list[int]  # the prompt's, then the answer's
    images: tuple[Image, ...]
    sampling: SamplingParams
    detokenizer: Detokenizer
    generator: torch.Generator | None
    extent: Extent | None = None
    num_cached: int = 0
    num_new: int = 0
    held_ids: list[int] = field(default_factory=list)
    is_cancelled: bool = False


class PackedEngine:
    """`Engine` over a checkpoint in this process. It takes the checkpoint over: the model cannot be used without it afterwards.

    `max_running` is the most requests at a time. `cache_tokens` is the size of the key-value cache in tokens: None takes 80 % of a
    GPU's free memory, or up to 2 GiB on a CPU. `image_blocks` blocks of 64 image tokens stay encoded: None takes up to 512 MiB.
    `load` loads the checkpoint again after `unload`; without it, `unload` frees the cache only. Raises `ModelLoadError`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        load: Callable[[], Checkpoint] | None = None,
        max_running: int = 16,
        cache_tokens: int | None = None,
        image_blocks: int | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._load = load
        self._capabilities = ModelCapabilities(
            model_name=checkpoint.name,
            context_length=checkpoint.context_length,
            num_image_tokens=checkpoint.num_image_tokens,
            max_images_per_chat=checkpoint.max_images_per_chat,
        )
        self.num_steps = 0  # forward passes of the language model so far
        self.num_computed_tokens = 0  # uncached prompt tokens and generated tokens
        self._max_running = max_running
        self._cache_tokens = cache_tokens
        self._num_image_blocks = image_blocks or self._image_blocks(max_running)
        self._take_over(checkpoint)
        self._cache: PackedCache | None = None
        self._capacity = 0
        self._requests: dict[str, _Request] = {}  # in order of arrival
        self._has_news = threading.Condition()  # guards the requests
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._on_outputs: OnOutputs = lambda outputs: None
        self._on_failure: OnFailure = lambda error: None

    @property
    def capabilities(self) -> ModelCapabilities:
        return self._capabilities

    @property
    def cache_capacity(self) -> int:
        return self._capacity

    def cache_cost(self, num_prompt_tokens: int, max_new_tokens: int) -> int:
        return units(num_prompt_tokens + max_new_tokens)

    def start(self, on_outputs: OnOutputs, on_failure: OnFailure) -> None:
        self._on_outputs, self._on_failure = on_outputs, on_failure
        if not self._is_loaded:
            assert self._load is not None
            self._take_over(self._load())
        try:
            context_length = self._checkpoint.context_length
            cache = make_cache(self._model, self._cache_tokens, max_running=self._max_running, context_length=context_length)
            # On a GPU the longest step is tried now, so that its memory is known to be there.
            num_tokens = min(_PROMPT_TOKENS_PER_STEP["cuda"], cache.num_rows) if self._model.device.type == "cuda" else 1
            batch = PackedBatch(cache, [0], [num_tokens], [num_tokens])
            with torch.inference_mode():
                self._logits([0] * num_tokens, batch)
        except (MemoryError, RuntimeError, ValueError) as error:
            raise _cannot_run(self._checkpoint.name, error) from error
        if batch.num_layers_run != len(cache.keys):
            raise ModelLoadError(f"{self._checkpoint.name} computes attention in a way that I do not know.")
        self._cache, self._capacity = cache, cache.num_rows // UNIT
        self._is_stopping = False
        # A daemon, so that a program which forgets to call `stop` can still exit.
        self._thread = threading.Thread(target=self._run, name="threadsight-engine", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        return num_prompt_tokens(self._checkpoint.forms, self._checkpoint.template.encode(messages, system))

    def add(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        prompt = self._checkpoint.template.encode(messages, system)
        request = _Request(
            request_id,
            self.images.pin_prompt(prompt),
            prompt.images,
            sampling,
            Detokenizer(self._checkpoint.tokenizer),
            make_generator(sampling, self._model.device),
        )
        with self._has_news:
            is_alive = self._thread is not None and self._thread.is_alive() and not self._is_stopping
            if is_alive:
                self._requests[request_id] = request
                self._has_news.notify()
        if not is_alive:
            self.images.unpin(request.images)
            raise EngineFailed("The model is not running.")

    def cancel(self, request_id: str) -> None:
        request = self._requests.get(request_id)
        if request is not None:
            # Released after the current step, which may still read its picture.
            request.is_cancelled = True
            with self._has_news:
                self._has_news.notify()

    def unload(self) -> None:
        self.stop()
        if self._load is not None:
            self._is_loaded = False
            self._checkpoint = replace(self._checkpoint, model=None)  # type: ignore[arg-type]  # until `start` brings it back
            del self._model, self.images
        gc.collect()  # modules hold each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def stop(self) -> None:
        atexit.unregister(self.stop)
        with self._has_news:
            self._is_stopping = True
            self._has_news.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._requests.clear()  # they mean nothing to the next cache
        self._cache = None

    def _take_over(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        try:
            self.images = ImageStore(checkpoint.model, checkpoint.forms, self._num_image_blocks)
        except (MemoryError, RuntimeError) as error:
            raise _cannot_run(checkpoint.name, error) from error
        use_packed_attention(checkpoint.model)
        self._is_loaded = True

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while (requests := self._wait()) is not None:
                    self._step(requests)
        except BaseException as error:
            self._on_failure(error)

    def _wait(self) -> list[_Request] | None:
        """Release cancelled requests and wait until there are others. Returns these, or None when the engine has to stop."""
        with self._has_news:
            while not self._is_stopping:
                for request in [request for request in self._requests.values() if request.is_cancelled]:
                    self._release(request)
                if self._requests:
                    return list(self._requests.values())
                self._has_news.wait()
        return None

    def _step(self, requests: Sequence[_Request]) -> None:
        cache = self._cache
        assert cache is not None
        for request in requests:
            if request.extent is None:
                num_rows = len(request.ids) + request.sampling.max_new_tokens
                request.extent = cache.take(request.ids, num_rows)
                request.num_cached = len(request.extent.ids)
        chosen = self._chosen(requests)
        extents = [extent for _, extent, _ in chosen]
        ids = [request.ids[len(extent.ids) : len(extent.ids) + num] for request, extent, num in chosen]
        batch = PackedBatch(
            cache,
            [extent.start for extent in extents],
            [len(new) for new in ids],
            [len(extent.ids) + len(new) for extent, new in zip(extents, ids, strict=True)],
        )
        logits = self._logits([i for new in ids for i in new], batch)
        for extent, new in zip(extents, ids, strict=True):
            extent.ids += new
        self.num_steps += 1
        self.num_computed_tokens += sum(len(new) for new in ids)
        written = [i for i, (request, extent, _) in enumerate(chosen) if len(extent.ids) == len(request.ids)]
        if written:
            writing = [chosen[i][0] for i in written]
            next_ids = choose(logits[written], [r.sampling for r in writing], [r.generator for r in writing])
            news = [self._append(request, next_id) for request, next_id in zip(writing, next_ids, strict=True)]
            self._on_outputs([output for output in news if output is not None])

    def _chosen(self, requests: Sequence[_Request]) -> list[tuple[_Request, Extent, int]]:
        """Which requests this step computes, with their extents and numbers of tokens, in order of their rows."""
        budget = _PROMPT_TOKENS_PER_STEP.get(self._model.device.type, 256)
        chosen = []
        for request in requests:
            assert request.extent is not None
            num_waiting = len(request.ids) - len(request.extent.ids)
            num = min(num_waiting, budget) if request.num_new == 0 else 1
            budget -= num if request.num_new == 0 else 0
            if num:
                chosen.append((request, request.extent, num))
        return sorted(chosen, key=lambda choice: choice[1].start)

    def _logits(self, ids: list[int], batch: PackedBatch) -> torch.Tensor:
        """Run the model. Returns (chats, vocabulary): the logits after the last token of each chat."""
        output: Any = self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            position_ids=batch.positions[None],
            use_cache=False,
            logits_to_keep=batch.lasts,
            packed=batch,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _append(self, request: _Request, token_id: int) -> EngineOutput | None:
        """Append one new token. Returns the output for the listener, or None when there is no new text yet."""
        request.ids.append(token_id)
        request.num_new += 1
        request.held_ids.append(token_id)
        text = request.detokenizer.add(token_id)
        reason = None
        if token_id in self._checkpoint.eos_ids:
            reason = FinishReason.STOP
        elif request.num_new == request.sampling.max_new_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            text += request.detokenizer.flush()
            with self._has_news:
                self._release(request)
        if request.is_cancelled or (reason is None and not text):
            return None  # ids are sent together with the text that they complete
        ids, request.held_ids = tuple(request.held_ids), []
        return EngineOutput(request.request_id, text, ids, request.num_cached, reason)

    def _release(self, request: _Request) -> None:
        del self._requests[request.request_id]
        self.images.unpin(request.images)
        if request.extent is not None and self._cache is not None:
            self._cache.give_back(request.extent)

    def _image_blocks(self, max_running: int) -> int:
        """Room for a few pictures of each running chat, within _MAX_IMAGE_BYTES, but at least for one chat full of pictures."""
        checkpoint = self._checkpoint
        blocks_per_image = -(-checkpoint.num_image_tokens // BLOCK_ROWS)
        wanted = blocks_per_image * max(_NUM_IMAGES, 2 * max_running * checkpoint.max_images_per_chat)
        embedding: Any = checkpoint.model.get_input_embeddings()
        bound: int = _MAX_IMAGE_BYTES // (BLOCK_ROWS * embedding.embedding_dim * embedding.weight.element_size())
        least = blocks_per_image + checkpoint.context_length // BLOCK_ROWS + checkpoint.max_images_per_chat
        return max(least, min(wanted, bound))


def _cannot_run(name: str, error: Exception) -> ModelLoadError:
    if isinstance(error, MemoryError) or "memory" in str(error):  # torch's wording on every device
        return ModelLoadError(f"There is not enough memory for {name} and its cache.")
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    return ModelLoadError(f"{name} cannot be run on this machine: {first_line}")
