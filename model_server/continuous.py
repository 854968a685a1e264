"""The engine on this machine: transformers' continuous batching, with pictures as token ids (vision.py) and attention over ragged
batches (attention.py).

One thread generates for all requests at once; it hands every step's tokens to the callback given to `start`. One request that could
never fit would stop that thread and fail everybody, so the loop admits by `cache_cost` and `cache_capacity`. Names in that part of
transformers change between its minor versions: the version is pinned.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager, OutputRouter
from transformers.generation.continuous_batching.requests import FutureRequestState, GenerationOutput, RequestState
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

from model_server.attention import use_varlen_attention
from model_server.checkpoints import Checkpoint
from model_server.detokenizer import Detokenizer
from model_server.engine import EngineOutput, OnFailure, OnOutputs
from model_server.errors import EngineFailed, ModelLoadError
from model_server.types import FinishReason, Image, Message, ModelCapabilities, SamplingParams
from model_server.vision import PictureStore

_PAGE_SIZE = 16  # tokens; only full pages are shared between the turns of a chat
_MAX_CPU_CACHE_BYTES = 2 * 1024**3
_MIN_TEMPERATURE = 1e-3


class _CountingScheduler(FIFOScheduler):
    """First come, first served; counts what was computed, and tells what was cancelled, both in the engine's thread."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.num_steps = 0
        self.num_computed_tokens = 0
        self.num_cached_tokens: dict[str, int] = {}  # by request, as it was first scheduled
        self.on_cancelled: Callable[[str], None] = lambda request_id: None
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def schedule_batch(self, token_budget: int, cache_budget: int) -> tuple[list[FutureRequestState] | None, bool, int, int]:
        batch = super().schedule_batch(token_budget, cache_budget)
        for scheduled in batch[0] or ():
            self.num_cached_tokens.setdefault(scheduled.state.request_id, scheduled.state.position_offset)
            self.num_computed_tokens += scheduled.query_length
        self.num_steps += bool(batch[0])
        return batch

    def clear_cancelled_requests(self) -> list[RequestState]:
        cancelled = super().clear_cancelled_requests()
        for state in cancelled:
            self.on_cancelled(state.request_id)
        return cancelled


SCHEDULER_MAPPING["threadsight_counting"] = _CountingScheduler


class _Router(OutputRouter):
    """Hands what the generation thread produced to a callback, in that thread."""

    def __init__(self, deliver: Callable[[list[GenerationOutput]], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def deliver(self, output: GenerationOutput) -> None:
        self._deliver([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._deliver(outputs)


@dataclass(slots=True)
class _Request:
    detokenizer: Detokenizer
    images: tuple[Image, ...]
    num_seen: int = 0
    held_ids: list[int] = field(default_factory=list)
    is_cancelled: bool = False


class TransformersEngine:
    """`Engine` on a checkpoint in this process, which it takes over: afterwards the model runs nowhere else.

    `max_running` bounds the requests in one step; `cache_tokens` is the size of the key-value cache: None takes 80 % of a GPU's
    free memory, or up to 2 GiB on a CPU. `num_picture_slots` pictures stay encoded.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, max_running: int = 16, cache_tokens: int | None = None, num_picture_slots: int = 64
    ) -> None:
        self._checkpoint = checkpoint
        self._capabilities = ModelCapabilities(
            model_name=checkpoint.name,
            context_length=checkpoint.context_length,
            num_image_tokens=checkpoint.num_image_tokens,
            max_images_per_chat=1,
        )
        self.pictures = PictureStore(
            checkpoint.model, checkpoint.image_processor, checkpoint.num_image_tokens, max(num_picture_slots, 2 * max_running)
        )
        self._max_running = max_running
        self._cache_tokens = cache_tokens
        self._requests: dict[str, _Request] = {}
        self._manager: ContinuousBatchingManager | None = None
        self._scheduler: _CountingScheduler | None = None
        self._num_pages = 0
        self._is_stopping = False
        self._on_outputs: OnOutputs = lambda outputs: None
        self._on_failure: OnFailure = lambda error: None

    @property
    def capabilities(self) -> ModelCapabilities:
        return self._capabilities

    @property
    def cache_capacity(self) -> int:
        return self._num_pages

    def cache_cost(self, num_prompt_tokens: int, max_new_tokens: int) -> int:
        return -(-(num_prompt_tokens + max_new_tokens) // _PAGE_SIZE)

    @property
    def num_steps(self) -> int:
        """Forward passes of the language model so far."""
        return self._scheduler.num_steps if self._scheduler else 0

    @property
    def num_computed_tokens(self) -> int:
        """Tokens that went through the language model so far: prompts as far as they were not cached, and generated ones."""
        return self._scheduler.num_computed_tokens if self._scheduler else 0

    def start(self, on_outputs: OnOutputs, on_failure: OnFailure) -> None:
        self._on_outputs, self._on_failure = on_outputs, on_failure
        model = self._checkpoint.model
        use_varlen_attention(model)
        try:
            manager: ContinuousBatchingManager = model.init_continuous_batching(
                generation_config=GenerationConfig(
                    # Processors exist only for settings that differ from their defaults here; every request sets its own.
                    do_sample=True,
                    temperature=0.7,
                    top_k=50,
                    top_p=0.9,
                    eos_token_id=list(self._checkpoint.eos_ids),
                    pad_token_id=self._checkpoint.eos_ids[0],
                ),
                continuous_batching_config=self._batching_config(),
            )
            manager.output_router = _Router(self._deliver)
            manager.warmup()  # makes the cache
        except (MemoryError, ValueError, RuntimeError) as error:
            raise ModelLoadError(f"There is not enough memory for {self._checkpoint.name} and its cache.") from error
        processor = manager.batch_processor
        assert processor is not None
        assert isinstance(processor.scheduler, _CountingScheduler)
        self._manager, self._scheduler = manager, processor.scheduler
        self._scheduler.on_cancelled = self._release
        self._num_pages = processor.cache.num_blocks
        # Our own thread around the manager's loop: a daemon, so that a program which forgets to stop us can still end, and one that
        # tells when it ended, however it did.
        manager.background_thread_status.clear()
        thread = threading.Thread(target=self._run, args=(manager,), name="threadsight-engine", daemon=True)
        manager._generation_thread = thread  # type: ignore[assignment]
        thread.start()
        atexit.register(self.stop)

    def num_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return self._checkpoint.template.encode(messages).num_tokens(self._checkpoint.num_image_tokens)

    def add(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams) -> None:
        if self._manager is None:
            raise EngineFailed("The model is not running.")
        prompt = self._checkpoint.template.encode(messages)
        request = _Request(Detokenizer(self._checkpoint.tokenizer), prompt.images)
        picture_ids = iter(self.pictures.pin(prompt.images))
        ids = [i for part in prompt.parts for i in (next(picture_ids) if isinstance(part, Image) else part)]
        self._requests[request_id] = request
        added = self._manager.add_request(
            ids,
            request_id=request_id,
            max_new_tokens=sampling.max_new_tokens,
            streaming=True,
            eos_token_id=list(self._checkpoint.eos_ids),
            **self._sampling(sampling),  # type: ignore[arg-type]
        )
        if added is None:
            self._release(request_id)
            raise EngineFailed("The model is not running.")

    def cancel(self, request_id: str) -> None:
        request = self._requests.get(request_id)
        if request is not None and self._manager is not None:
            # It stays pinned until the engine has let go of it: the step that runs now may still read its picture.
            request.is_cancelled = True
            self._manager.cancel_request(request_id)

    def stop(self) -> None:
        self._is_stopping = True
        atexit.unregister(self.stop)
        if self._manager is not None and self._manager.is_running():
            self._manager.stop(block=True, hard_stop=True)
        self._scheduler = None  # it holds the cache

    def _batching_config(self) -> ContinuousBatchingConfig:
        on_gpu = self._checkpoint.model.device.type == "cuda"
        return ContinuousBatchingConfig(
            page_size=_PAGE_SIZE,
            num_blocks=self._cache_pages(on_gpu),
            max_batch_tokens=max(4096 if on_gpu else 1024, self._max_running),
            max_memory_percent=0.8 if on_gpu else None,
            max_requests_per_batch=self._max_running,
            max_blocks_per_request=0,  # the block-table path belongs to the flash-attn package
            use_cuda_graph=False,
            use_async_batching=False,
            scheduler_type="threadsight_counting",
            per_request_processors=True,
            auto_switch_to_flash=False,
        )

    def _cache_pages(self, on_gpu: bool) -> int | None:
        if self._cache_tokens is not None:
            return max(1, self._cache_tokens // _PAGE_SIZE)
        if on_gpu:
            return None
        text: Any = self._checkpoint.model.config.text_config
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        bytes_per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * torch.float32.itemsize
        context = self._checkpoint.context_length
        tokens: int = max(context, min(2 * self._max_running * context, _MAX_CPU_CACHE_BYTES // bytes_per_token))
        return tokens // _PAGE_SIZE + 1

    def _sampling(self, sampling: SamplingParams) -> dict[str, float | int]:
        if sampling.is_greedy:
            return {"temperature": 1.0, "top_k": 1, "top_p": 1.0}
        text: Any = self._checkpoint.model.config.text_config
        vocab_size: int = text.vocab_size
        return {
            "temperature": max(float(sampling.temperature), _MIN_TEMPERATURE),
            "top_k": min(sampling.top_k or vocab_size, vocab_size),
            "top_p": float(sampling.top_p),
        }

    def _release(self, request_id: str) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self.pictures.unpin(request.images)
        if self._scheduler is not None:
            self._scheduler.num_cached_tokens.pop(request_id, None)

    def _run(self, manager: ContinuousBatchingManager) -> None:
        manager._run_generation_loop()
        if not self._is_stopping:
            error = manager.background_thread_status.fatal_error or RuntimeError("the generation thread ended")
            self._on_failure(error)

    def _deliver(self, outputs: list[GenerationOutput]) -> None:
        news = [new for output in outputs if (new := self._news(output)) is not None]
        if news:
            self._on_outputs(news)

    def _news(self, output: GenerationOutput) -> EngineOutput | None:
        request = self._requests.get(output.request_id)
        if request is None:
            return None
        if output.error is not None:
            self._release(output.request_id)
            return EngineOutput(output.request_id, error=output.error)
        if request.is_cancelled:
            if output.is_finished():
                self._release(output.request_id)
            return None
        text = ""
        for token_id in output.generated_tokens[request.num_seen :]:
            request.held_ids.append(token_id)
            text += request.detokenizer.add(token_id)
        request.num_seen = len(output.generated_tokens)
        assert self._scheduler is not None
        num_cached = self._scheduler.num_cached_tokens.get(output.request_id, 0)
        reason = None
        if output.is_finished():
            reason = FinishReason.STOP if output.generated_tokens[-1] in self._checkpoint.eos_ids else FinishReason.LENGTH
            text += request.detokenizer.flush()
            self._release(output.request_id)
        elif not text:
            return None  # its ids come together with the text that they complete
        ids, request.held_ids = tuple(request.held_ids), []
        return EngineOutput(output.request_id, text, ids, num_cached, reason)
