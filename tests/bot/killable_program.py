"""`threadsight run` with a scripted model and an adapter that asks one question, for tests that end it the hard way.

Arguments: how many words the model writes before it hangs (-1: it never hangs), and the message id to ask with ("" asks nothing,
"deliver" delivers undelivered answers). Prints a line when it is ready, for the first words, and for the end of the answer; then
the number of the model's requests.
"""

from __future__ import annotations

import asyncio
import sys
from typing import assert_never

from adapters.base import AnswerText, Ended, Notice, ThreadHandler, Waiting
from bot.app import run
from bot.config import Settings, load_settings
from tests.bot.doubles import ScriptedModel, attachment, message, png, thread


class OneQuestion:
    name = "test"

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id

    async def run(self, handler: ThreadHandler) -> None:
        if self._message_id == "deliver":
            for platform_turn, left in await handler.undelivered("test"):
                text = "".join([event.text async for event in left.events() if isinstance(event, AnswerText)])
                await handler.set_reply(platform_turn.turn_id, ["reply"], is_delivered=True)
                print(f"delivered {text}", flush=True)
            print("all is delivered", flush=True)
            await asyncio.Event().wait()
            return
        if self._message_id:
            answer = await handler.handle(message("What is this?", attachment(png()), message_id=self._message_id))
        else:
            running = handler.running_answer(thread())
            if running is None:
                print("nothing to do", flush=True)
                await asyncio.Event().wait()
                return
            answer = running
        async for event in answer.events():
            match event:
                case AnswerText():
                    print(f"text {event.text}", flush=True)
                case Ended():
                    print(f"ended {event.status}", flush=True)
                case Waiting() | Notice():
                    pass
                case _ as never:
                    assert_never(never)
        await asyncio.Event().wait()


async def main(num_free: int, message_id: str) -> None:
    model = ScriptedModel()
    if num_free >= 0:
        model.gate, model.num_free = asyncio.Event(), num_free

    async def open_model(_settings: Settings) -> ScriptedModel:
        return model

    await run(load_settings(None), lambda sentence: None, open_model=open_model, adapters=[OneQuestion(message_id)])
    print(f"requests {len(model.requests)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
