"""Showing an answer on a platform that keeps messages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import AnswerEvent, AnswerStatus, AnswerText, Ended, Notice, ThreadKey, Waiting
from adapters.conversations import reply
from adapters.conversations.pace import Pace
from adapters.conversations.reply import LOOKING, NOT_YET, NOTHING_SAID, STOPPED, Shown, show
from adapters.surface import Control, DestinationGone, Page, TryLater
from adapters.text.markdown import heal, split_pages
from tests.adapters.virtual_time import VirtualTime
from tests.chat_handler import WrittenAnswer

KEY = ThreadKey("memory", "w", "c", "t")
AFTER = (Control.REGENERATE, Control.HELPFUL, Control.NOT_HELPFUL)


@dataclass
class Notes:
    """What was written down about the messages that show an answer."""

    replies: list[tuple[int, tuple[str, ...], bool]] = field(default_factory=list)

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        self.replies.append((turn_id, tuple(reply_ids), is_delivered))


@dataclass
class Wall:
    """Messages in one channel; `faults` are raised by the next writes, one each (None: that one works).

    `is_moving`: a page that is edited gets another id, as where an old message cannot be edited any more.
    """

    max_page_chars: int = 100
    has_tables: bool = True
    channel: str = "c"
    messages: dict[str, Page] = field(default_factory=dict)
    faults: list[Exception | None] = field(default_factory=list)
    is_moving: bool = False
    num_writes: int = 0
    num_typing: int = 0
    history: list[tuple[str, Page]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def show_typing(self) -> None:
        self.num_typing += 1

    async def post(self, page: Page) -> str:
        await self._write(page)
        return await self._keep(f"m{len(self.history)}", page)

    async def edit(self, reply_id: str, page: Page) -> str | None:
        await self._write(page)
        assert reply_id in self.messages
        if not self.is_moving:
            await self._keep(reply_id, page)
            return None
        moved_to = f"m{len(self.history)}"
        self.messages = {(moved_to if old == reply_id else old): shown for old, shown in self.messages.items()}
        return await self._keep(moved_to, page)

    async def delete(self, reply_id: str) -> None:
        await self._write(Page("x"))
        del self.messages[reply_id]

    async def _write(self, page: Page) -> None:
        await asyncio.sleep(0)
        self.num_writes += 1
        size = len(page.text) + len(page.status or "") + sum(map(len, page.notices))
        assert 0 < size <= self.max_page_chars
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault

    async def _keep(self, reply_id: str, page: Page) -> str:
        async with self.changed:
            self.messages[reply_id] = page
            self.history.append((reply_id, page))
            self.changed.notify_all()
        return reply_id

    @property
    def pages(self) -> list[Page]:
        return list(self.messages.values())

    async def wait_for(self, text: str) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: any(text in page.text + (page.status or "") for page in self.pages))


def quick() -> Pace:
    return Pace(0.0, 1e6)


async def shown(
    wall: Wall, *events: AnswerEvent, notes: Notes | None = None, reply_ids: Sequence[str] = (), **options: Any
) -> WrittenAnswer:
    answer = WrittenAnswer(KEY, 7)
    await answer.add(*events)
    handler: Any = notes or Notes()
    async with asyncio.timeout(10):
        await show(answer, wall, options.pop("pace", None) or quick(), handler, reply_ids=list(reply_ids), **options)
    return answer


async def test_an_answer_is_shown_with_its_buttons_and_noted_down() -> None:
    wall, notes = Wall(), Notes()
    await shown(wall, AnswerText("A red "), AnswerText("circle."), Ended(AnswerStatus.COMPLETE), notes=notes)
    assert wall.pages == [Page("A red circle.", controls=AFTER, turn_id=7)]
    assert notes.replies[-1] == (7, tuple(wall.messages), True)
    assert all(not is_delivered for _, _, is_delivered in notes.replies[:-1])


@pytest.mark.parametrize(
    ("events", "page"),
    [
        ([Ended(AnswerStatus.COMPLETE)], Page(NOTHING_SAID, controls=AFTER, turn_id=7)),
        ([AnswerText("A"), Notice("Cut."), Ended(AnswerStatus.COMPLETE)], Page("A", notices=("Cut.",), controls=AFTER, turn_id=7)),
        ([AnswerText("A"), Ended(AnswerStatus.STOPPED)], Page("A", notices=(STOPPED,), controls=AFTER, turn_id=7)),
        ([Ended(AnswerStatus.STOPPED)], Page("", notices=(STOPPED,), controls=AFTER, turn_id=7)),
        ([Ended(AnswerStatus.FAILED, "No picture.")], Page("No picture.", controls=AFTER[:1], turn_id=7)),
        ([Ended(AnswerStatus.FAILED, "No [x](http://e.org).")], Page("No [x] (http://e.org).", controls=AFTER[:1], turn_id=7)),
        ([AnswerText("A"), Ended(AnswerStatus.FAILED, "Broken.")], Page("A", notices=("Broken.",), controls=AFTER[:1], turn_id=7)),
        ([Notice("Back soon."), Ended(AnswerStatus.PENDING)], Page("", notices=("Back soon.",), turn_id=7)),
        ([Ended(AnswerStatus.PENDING)], Page("", notices=(NOT_YET,), turn_id=7)),
        (
            [AnswerText("```py\nx"), Ended(AnswerStatus.STOPPED)],
            Page("```py\nx\n```", notices=(STOPPED,), controls=AFTER, turn_id=7),
        ),
    ],
)
async def test_every_end_is_told(events: list[AnswerEvent], page: Page) -> None:
    wall, notes = Wall(), Notes()
    await shown(wall, *events, notes=notes)
    assert wall.pages == [page]
    assert notes.replies[-1][2] is (events[-1] != Ended(AnswerStatus.PENDING))


async def test_a_long_answer_goes_on_in_further_messages() -> None:
    wall = Wall()
    text = "Once upon a time there was a red circle. " * 12
    await shown(wall, AnswerText(text), Notice("Older turns were left out."), Ended(AnswerStatus.COMPLETE))
    assert "".join(page.text for page in wall.pages) == text
    assert [bool(page.controls) for page in wall.pages] == [False] * (len(wall.pages) - 1) + [True]
    assert wall.pages[-1].notices == ("Older turns were left out.",)


async def test_notices_that_do_not_fit_get_a_message_of_their_own() -> None:
    wall = Wall()
    await shown(wall, AnswerText("x" * 80), Notice("n" * 40), Ended(AnswerStatus.COMPLETE))
    assert [page.text for page in wall.pages] == ["x" * 80, ""]
    assert wall.pages[1].notices == ("n" * 40,)


async def test_notices_that_fit_exactly_stay_on_the_page() -> None:
    for num_chars, num_pages in ((42, 1), (43, 2)):  # a platform may put eight characters around each
        wall = Wall()
        await shown(wall, AnswerText("x" * 50), Notice("n" * num_chars), Ended(AnswerStatus.COMPLETE))
        assert [page.notices for page in wall.pages] == [()] * (num_pages - 1) + [("n" * num_chars,)]


async def test_no_notice_is_left_out_however_many_there_are() -> None:
    wall = Wall()
    notices = [f"I could not use the picture number {number}." for number in range(10)]
    await shown(wall, AnswerText("Red."), *map(Notice, notices), Ended(AnswerStatus.COMPLETE))
    assert [notice for page in wall.pages for notice in page.notices] == notices
    assert [page.text for page in wall.pages if page.text] == ["Red."]
    assert [page.controls for page in wall.pages] == [()] * (len(wall.pages) - 1) + [AFTER]


async def test_an_endless_notice_is_cut() -> None:
    wall = Wall()
    await shown(wall, AnswerText("Red."), Notice("n" * 500), Ended(AnswerStatus.COMPLETE))
    (notice,) = wall.pages[1].notices
    assert notice.startswith("nnn")
    assert notice.endswith("n…")


async def test_the_place_in_the_queue_is_kept_current_and_replaced_by_the_text() -> None:
    wall, answer, notes = Wall(), WrittenAnswer(KEY, 7), Notes()
    handler: Any = notes
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(show(answer, wall, quick(), handler))
        await answer.add(Waiting(3, 20.0))
        await wall.wait_for("number 3 in the queue, about 20 seconds")
        assert wall.pages[0].controls == (Control.STOP,)
        await answer.add(Waiting(2, 10.0))
        await wall.wait_for("number 2 in the queue, about 10 seconds")
        await answer.add(AnswerText("Red."))
        await wall.wait_for("Red.")
        assert wall.pages == [Page("Red.", controls=(Control.STOP,), turn_id=7, is_open=True)]
        assert notes.replies[0] == (7, tuple(wall.messages), False)
        await answer.add(Ended(AnswerStatus.COMPLETE))
    assert len(wall.messages) == 1


async def test_whoever_is_first_is_told_that_the_model_is_loading() -> None:
    wall, answer = Wall(), WrittenAnswer(KEY, 7)
    handler: Any = Notes()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(show(answer, wall, quick(), handler))
        await answer.add(Waiting(1, None, is_loading=True))
        await wall.wait_for("being loaded")
        await answer.add(AnswerText("Red."), Ended(AnswerStatus.COMPLETE))
    assert [page.text for page in wall.pages] == ["Red."]


async def test_who_waits_sees_that_something_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "QUIET_SECONDS", 0.01)
    wall, answer = Wall(), WrittenAnswer(KEY, 7)
    handler: Any = Notes()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(show(answer, wall, quick(), handler))
        await wall.wait_for(LOOKING)
        assert wall.num_typing
        await answer.add(AnswerText("Red."), Ended(AnswerStatus.COMPLETE))
    assert [page.text for page in wall.pages] == ["Red."]


async def test_messages_of_the_earlier_answer_are_used_again_and_the_rest_deleted() -> None:
    wall, notes = Wall(), Notes()
    wall.messages = {"a": Page("old"), "b": Page("older"), "c": Page("oldest")}
    await shown(wall, AnswerText("New."), Ended(AnswerStatus.COMPLETE), notes=notes, reply_ids=["a", "b", "c"])
    assert wall.messages == {"a": Page("New.", controls=AFTER, turn_id=7)}
    assert notes.replies[-1] == (7, ("a",), True)


async def test_a_question_that_was_taken_back_has_no_buttons() -> None:
    wall, notes, answer = Wall(), Notes(), WrittenAnswer(KEY, 7)
    handler: Any = notes
    await answer.add(Waiting(4, None))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(show(answer, wall, quick(), handler))
        await wall.wait_for("number 4")
        answer.forget_turn()
        await answer.add(Ended(AnswerStatus.FAILED, "The queue is full."))
    assert wall.pages == [Page("The queue is full.")]


async def test_a_place_that_is_gone_stops_the_answer() -> None:
    wall, notes = Wall(faults=[DestinationGone()]), Notes()
    answer = await shown(wall, AnswerText("Red"), notes=notes)
    assert answer.is_stop_wanted.is_set()
    assert notes.replies == [(7, (), True)]


async def test_a_message_that_had_to_move_is_noted_where_it_is_now() -> None:
    wall, notes = Wall(is_moving=True, messages={"a": Page("old"), "b": Page("older")}), Notes()
    text = "x" * 150
    await shown(wall, AnswerText(text), Ended(AnswerStatus.COMPLETE), notes=notes, reply_ids=["a", "b"])
    assert "".join(page.text for page in wall.pages) == text
    assert notes.replies[-1] == (7, tuple(wall.messages), True)
    assert not {"a", "b"} & set(wall.messages)


async def test_where_a_message_has_moved_to_is_noted_while_the_answer_is_still_written() -> None:
    """A program that ends now finds the message after its restart."""
    wall, answer, notes = Wall(is_moving=True), WrittenAnswer(KEY, 7), Notes()
    handler: Any = notes
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(show(answer, wall, quick(), handler))
        await answer.add(Waiting(3, 20.0))
        await wall.wait_for("number 3")
        await answer.add(AnswerText("Red."))
        await wall.wait_for("Red.")
        await answer.add(AnswerText(" Round."))
        await wall.wait_for("Red. Round.")
        noted = [reply_ids for _, reply_ids, _ in notes.replies]
        assert noted[:2] == [("m0",), ("m1",)]
        await answer.add(Ended(AnswerStatus.COMPLETE))
    assert notes.replies[-1] == (7, tuple(wall.messages), True)


@pytest.mark.parametrize("is_moving", [False, True])
async def test_at_every_write_it_is_noted_which_messages_there_are(is_moving: bool) -> None:
    notes = Notes()

    class Watched(Wall):
        async def _write(self, page: Page) -> None:
            if self.num_writes:
                assert notes.replies[-1] == (7, tuple(self.messages), False)
            await super()._write(page)

    wall = Watched(is_moving=is_moving, messages={old: Page("old") for old in "abcde"})
    await shown(wall, AnswerText("x" * 150), Ended(AnswerStatus.COMPLETE), notes=notes, reply_ids=list("abcde"))
    assert wall.num_writes == 5  # two pages, and three messages too many
    assert notes.replies[-1] == (7, tuple(wall.messages), True)


@pytest.mark.parametrize(
    ("status", "fault", "how"),
    [
        (AnswerStatus.COMPLETE, None, Shown.DELIVERED),
        (AnswerStatus.PENDING, None, Shown.UNDELIVERED),
        (AnswerStatus.COMPLETE, DestinationGone(), Shown.GONE),
    ],
)
async def test_it_says_how_it_ended(status: AnswerStatus, fault: Exception | None, how: Shown) -> None:
    answer, handler = WrittenAnswer(KEY, 7), Notes()
    await answer.add(AnswerText("Red."), Ended(status))
    whoever: Any = handler
    assert await show(answer, Wall(faults=[fault]), quick(), whoever) is how


async def test_the_end_is_given_up_after_a_long_while_and_stays_undelivered() -> None:
    time = VirtualTime()
    wall, notes = Wall(faults=[TryLater() for _ in range(1_000)]), Notes()
    pace = Pace(0.0, 1e6, clock=time.clock, sleep=time.sleep)
    handler: Any = notes
    answer = WrittenAnswer(KEY, 7)
    await answer.add(AnswerText("Red."), Ended(AnswerStatus.COMPLETE))
    ends: list[Shown] = []

    async def run() -> None:
        ends.append(await show(answer, wall, pace, handler, clock=time.clock, final_seconds=600))

    await time.run(run())
    assert ends == [Shown.UNDELIVERED]
    assert 600 <= time.now < 700
    assert 15 < wall.num_writes < 40
    assert not notes.replies


faults = st.lists(st.sampled_from([None, None, TryLater(), TryLater(3.0)]), max_size=25)
pieces = st.lists(st.text(st.sampled_from("ab \n`."), min_size=1, max_size=60), max_size=12)


class Writing:
    """An answer that is written piece by piece, and shown on a wall meanwhile; both by the same virtual clock."""

    def __init__(self, wall: Wall, pieces: Sequence[str], channel_seconds: float = 0.1) -> None:
        self.wall, self.pieces = wall, pieces
        self.time, self.notes, self.answer = VirtualTime(), Notes(), WrittenAnswer(KEY, 7)
        self.pace = Pace(channel_seconds, 50, clock=self.time.clock, sleep=self.time.sleep)
        self.ends: list[Shown] = []

    async def write(self) -> None:
        for piece in self.pieces:
            await self.answer.add(AnswerText(piece))
            await self.time.sleep(0.3)
        await self.answer.add(Ended(AnswerStatus.COMPLETE))

    async def show(self, reply_ids: Sequence[str] = ()) -> None:
        handler: Any = self.notes
        self.ends.append(await show(self.answer, self.wall, self.pace, handler, reply_ids=list(reply_ids), clock=self.time.clock))

    def check(self) -> None:
        pages = split_pages("".join(self.pieces), self.wall.max_page_chars, is_whole=True) or [NOTHING_SAID]
        assert [page.text for page in self.wall.pages] == [*pages[:-1], heal(pages[-1])]
        assert not any(page.is_open for page in self.wall.pages)
        assert self.notes.replies[-1] == (7, tuple(self.wall.messages), True)
        assert self.ends == [Shown.DELIVERED]


@given(faults, pieces, st.sampled_from([1.0, 0.1]), st.integers(0, 3), st.booleans())
def test_whatever_fails_in_between_the_whole_text_stands_at_the_end(
    faults: list[Exception | None], pieces: list[str], channel_seconds: float, num_old: int, is_moving: bool
) -> None:
    old = {f"old{number}": Page("old") for number in range(num_old)}
    writing = Writing(Wall(faults=list(faults), messages=old, is_moving=is_moving), pieces, channel_seconds)
    asyncio.run(writing.time.run(writing.write(), writing.show(list(old))))
    writing.check()


@given(st.lists(st.sampled_from([None, TryLater()]), max_size=12), pieces)
def test_whenever_the_place_goes_the_answer_ends_quietly_and_nothing_is_tried_again(
    before: list[Exception | None], pieces: list[str]
) -> None:
    wall = Wall(faults=[*before, *(DestinationGone() for _ in range(100))])
    writing = Writing(wall, pieces)
    asyncio.run(writing.time.run(writing.write(), writing.show()))
    if writing.ends == [Shown.GONE]:
        assert wall.num_writes == len(before) + 1
        assert writing.answer.is_stop_wanted.is_set() or writing.answer.ended is not None
        assert writing.notes.replies[-1] == (7, tuple(wall.messages), True)
    else:
        assert wall.num_writes <= len(before)
        writing.check()


@given(st.lists(st.sampled_from([None, None, TryLater()]), max_size=12), pieces, st.floats(0, 8), st.integers(0, 12))
def test_whenever_it_is_cancelled_the_next_run_goes_on_with_the_same_messages(
    faults: list[Exception | None], pieces: list[str], seconds: float, num_steps: int
) -> None:
    writing = Writing(Wall(faults=list(faults)), pieces)

    async def show_twice() -> None:
        first = asyncio.create_task(writing.show())
        await writing.time.sleep(seconds)
        for _ in range(num_steps):  # to any point between two moments
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        noted = writing.notes.replies[-1][1] if writing.notes.replies else ()
        writing.ends.clear()
        await writing.show(noted)

    asyncio.run(writing.time.run(writing.write(), show_twice()))
    writing.check()


async def test_fifty_answers_each_in_its_place_and_none_too_fast() -> None:
    time, notes = VirtualTime(), Notes()
    handler: Any = notes
    pace = Pace(1.2, 40, clock=time.clock, sleep=time.sleep)
    walls = [Wall(channel=f"c{number}", max_page_chars=2_000) for number in range(50)]
    at: dict[str, list[float]] = {wall.channel: [] for wall in walls}

    async def one(wall: Wall) -> None:
        answer = WrittenAnswer(KEY, int(wall.channel[1:]))
        keep = wall._keep

        async def timed_keep(reply_id: str, page: Page) -> str:
            at[wall.channel].append(time.now)
            return await keep(reply_id, page)

        wall._keep = timed_keep  # type: ignore[method-assign]

        async def write() -> None:
            for word in range(30):
                await answer.add(AnswerText(f"{wall.channel}-{word} "))
                await time.sleep(0.1)
            await answer.add(Ended(AnswerStatus.COMPLETE))

        writing = asyncio.create_task(write())
        await show(answer, wall, pace, handler, clock=time.clock)
        await writing

    await time.run(*(one(wall) for wall in walls))
    for wall in walls:
        assert [page.text for page in wall.pages] == ["".join(f"{wall.channel}-{word} " for word in range(30))]
        assert all(later - earlier >= 1.2 - 1e-6 for earlier, later in zip(at[wall.channel], at[wall.channel][1:], strict=False))
    every = sorted(moment for moments in at.values() for moment in moments)
    assert all(later - earlier >= 1 / 40 - 1e-6 for earlier, later in itertools.pairwise(every))
