"""Our HTTP server over an engine that hangs, for tests that kill it.

Arguments: the port, and after how many words it hangs (-1: never). Prints its URL.
"""

from __future__ import annotations

import asyncio
import sys

from model_server.loop import InferenceLoop
from model_server.serve.server import CompletionServer
from tests.model_server.worded_engine import WordedEngine


async def main(port: int, hold_after: int) -> None:
    model = InferenceLoop(WordedEngine(None if hold_after < 0 else hold_after))
    await model.start()
    server = CompletionServer(model, "127.0.0.1", port)
    await server.start()
    print(server.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
