"""Opens a model on this machine: the one function that the program calls."""

from __future__ import annotations

import asyncio
import logging

from model_server.checkpoints.fit import Plan, with_cache
from model_server.checkpoints.loading import TINY, Checkpoint, load_checkpoint
from model_server.checkpoints.quantization import Quantization
from model_server.loop import InferenceLoop
from model_server.packed.engine import PackedEngine

log = logging.getLogger(__name__)


async def open_local(
    model: str = TINY,
    *,
    revision: str | None = None,
    quantization: Quantization = "none",
    device_map: str = "auto",
    max_queue: int = 64,
    max_running: int = 16,
    cache_tokens: int | None = None,
    idle_unload_seconds: float = 0,
) -> InferenceLoop:
    """Load `model` (`tiny`, a hub id or a folder) without blocking the event loop, and start its loop. Raises `ModelLoadError`.

    `revision` is a branch, tag or commit on the hub. The model's memory use is logged.

    The caller closes the loop. At most `max_running` answers are written at a time, and `max_queue` requests wait. `cache_tokens`
    is the size of the key-value cache in tokens (None: chosen by the free memory). After `idle_unload_seconds` without a question
    the model is unloaded until the next one (0: never).
    """

    def load() -> Checkpoint:
        return load_checkpoint(model, revision=revision, quantization=quantization, device_map=device_map)

    def load_engine() -> tuple[PackedEngine, Plan]:
        checkpoint = load()
        return PackedEngine(checkpoint, load=load, max_running=max_running, cache_tokens=cache_tokens), checkpoint.plan

    engine, planned = await asyncio.to_thread(load_engine)
    loop = InferenceLoop(engine, max_queue=max_queue, max_running=max_running, idle_unload_seconds=idle_unload_seconds)
    await loop.start()
    log.info("%s", with_cache(planned, engine))
    return loop
