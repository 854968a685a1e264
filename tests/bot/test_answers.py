"""Listeners of an answer: any number, early or late, fast or hung."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from adapters.base import AnswerStatus, AnswerText, Ended, Notice, Waiting
from bot.answers import RunningAnswer, ended_answer
from tests.bot.doubles import collect, thread


async def test_a_late_listener_gets_the_text_so_far_in_one_piece() -> None:
    answer = RunningAnswer(thread(), 1, ["A notice."])
    answer.wait_at(Waiting(2, 3.0))
    answer.write("Hello")
    answer.write(" there")
    early = asyncio.create_task(collect(answer))
    await asyncio.sleep(0)
    answer.write(", you")
    answer.end(AnswerStatus.COMPLETE)
    ended = Ended(AnswerStatus.COMPLETE)
    assert await early == [Notice("A notice."), AnswerText("Hello there"), AnswerText(", you"), ended]
    assert await collect(answer) == [Notice("A notice."), AnswerText("Hello there, you"), ended]


async def test_the_newest_place_in_the_queue_is_told_until_text_comes() -> None:
    answer = RunningAnswer(thread(), 1)
    answer.wait_at(Waiting(3, None))
    events = answer.events()
    assert await anext(events) == Waiting(3, None)
    answer.wait_at(Waiting(2, 4.0))
    answer.wait_at(Waiting(1, 2.0))
    assert await anext(events) == Waiting(1, 2.0)
    answer.write("x")
    assert await anext(events) == AnswerText("x")


async def test_a_hung_listener_holds_up_nobody() -> None:
    answer = RunningAnswer(thread(), 1)
    answer.write("a")
    hung = answer.events()
    assert await anext(hung) == AnswerText("a")  # and never asks again
    for _ in range(1_000):
        answer.write("b")
    answer.end(AnswerStatus.COMPLETE)
    assert await collect(answer) == [AnswerText("a" + "b" * 1_000), Ended(AnswerStatus.COMPLETE)]
    assert await anext(hung) == AnswerText("b" * 1_000)


async def test_stop_reaches_the_model_once_and_only_while_it_writes() -> None:
    calls: list[str] = []
    answer = RunningAnswer(thread(), 1)
    answer.stop()
    assert answer.is_stopped
    answer.when_stopped(lambda: calls.append("stop"))
    answer.stop()
    assert calls == ["stop"]
    over = ended_answer(thread(), AnswerStatus.COMPLETE, text="x")
    over.stop()
    assert not over.is_stopped


@given(st.lists(st.one_of(st.text(min_size=1).map(AnswerText), st.text(min_size=1).map(Notice)), max_size=20), st.data())
async def test_every_listener_sees_everything_whenever_it_comes(steps: list[AnswerText | Notice], data: st.DataObject) -> None:
    answer = RunningAnswer(thread(), 1)
    listeners = []
    for step in steps:
        if data.draw(st.booleans()):
            listeners.append(asyncio.create_task(collect(answer)))
        if data.draw(st.booleans()):
            await asyncio.sleep(0)
        if isinstance(step, AnswerText):
            answer.write(step.text)
        else:
            answer.add_notice(step.text)
    answer.end(AnswerStatus.STOPPED)
    listeners.append(asyncio.create_task(collect(answer)))
    for events in await asyncio.gather(*listeners):
        assert "".join(e.text for e in events if isinstance(e, AnswerText)) == "".join(
            s.text for s in steps if isinstance(s, AnswerText)
        )
        assert [e.text for e in events if isinstance(e, Notice)] == list(
            dict.fromkeys(s.text for s in steps if isinstance(s, Notice))
        )
        assert events[-1] == Ended(AnswerStatus.STOPPED)
        assert sum(isinstance(event, Ended) for event in events) == 1
