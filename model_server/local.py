"""The model on this machine, ready to answer: the one function that the program calls."""

from __future__ import annotations

import asyncio

from model_server.checkpoints import TINY, Quantization, load_checkpoint
from model_server.continuous import TransformersEngine
from model_server.loop import InferenceLoop


async def open_local(
    model: str = TINY,
    *,
    quantization: Quantization = "none",
    device_map: str = "auto",
    max_queue: int = 64,
    max_running: int = 16,
    cache_tokens: int | None = None,
) -> InferenceLoop:
    """Load `model` (`tiny`, a hub id or a folder) without blocking the event loop, and start it. Raises `ModelLoadError`.

    The caller closes the loop. At most `max_running` answers are written at a time and `max_queue` requests wait;
    `cache_tokens` bounds the key-value cache (None: sized by the memory that is there).
    """
    checkpoint = await asyncio.to_thread(load_checkpoint, model, quantization=quantization, device_map=device_map)
    engine = await asyncio.to_thread(TransformersEngine, checkpoint, max_running=max_running, cache_tokens=cache_tokens)
    loop = InferenceLoop(engine, max_queue=max_queue, max_running=max_running)
    await loop.start()
    return loop
