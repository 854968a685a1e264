"""However Slack tells of a post - which events, in which order, how often, with how much of the files - it is one post."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapters.slack.merge import Merger, News, PostId, Record

ID: PostId = ("T1", "C1", "1700000000.000100")
FULL = {"id": "F1", "name": "a.png", "url_private_download": "https://files.slack.com/a.png"}
OTHER = {"id": "F2", "name": "b.png", "url_private_download": "https://files.slack.com/b.png"}
THIN = {"id": "F1"}


def event(kind: str, *files: Mapping[str, str], **more: Any) -> dict[str, Any]:
    return {"type": kind, "text": "<@UBOT> look", "user": "U1", "ts": ID[2], "files": list(files), **more}


class Heard:
    """What a merger delivered; Slack knows the whole post and can be asked for it."""

    def __init__(self, whole: dict[str, Any] | None = None) -> None:
        self.deliveries: list[tuple[tuple[str, ...], bool, bool]] = []
        self.num_look_ups = 0
        self.whole = whole
        self.is_late = asyncio.Event()
        self.has_paused = asyncio.Event()
        self.merger = Merger(self._look_up, self._pause)

    async def take(self, id_: PostId, event: Mapping[str, Any], *, is_mention: bool) -> None:
        """As the dispatcher does: the first event's post is completed in its turn, later ones change it."""
        record, news = self.merger.add(id_, event, is_mention=is_mention)
        if news is News.POST:
            await self.merger.complete(record)
            self._deliver(record, is_late=False)
        elif news is News.MORE:
            self._deliver(record, is_late=True)

    def _deliver(self, record: Record, *, is_late: bool) -> None:
        files = tuple(sorted(str(file["id"]) for file in record.event["files"]))
        self.deliveries.append((files, record.is_mention, is_late))

    async def _look_up(self, id_: PostId, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        assert id_ == ID
        self.num_look_ups += 1
        return self.whole

    async def _pause(self) -> None:
        self.has_paused.set()
        await self.is_late.wait()


async def test_a_whole_event_is_delivered_at_once() -> None:
    heard = Heard()
    await heard.take(ID, event("message", FULL, subtype="file_share"), is_mention=True)
    await heard.take(ID, event("app_mention", FULL), is_mention=True)
    assert (heard.deliveries, heard.num_look_ups) == ([(("F1",), True, False)], 0)


async def test_a_mention_without_files_waits_for_the_message_that_has_them() -> None:
    heard = Heard()
    mention = asyncio.create_task(heard.take(ID, event("app_mention"), is_mention=True))
    await asyncio.wait_for(heard.has_paused.wait(), 5)
    assert heard.deliveries == []
    await heard.take(ID, event("message", FULL, subtype="file_share"), is_mention=True)
    await asyncio.wait_for(mention, 5)
    assert (heard.deliveries, heard.num_look_ups) == ([(("F1",), True, False)], 0)


async def test_a_mention_that_stays_alone_is_looked_up_once() -> None:
    heard = Heard(whole={"type": "message", "text": "<@UBOT> look", "files": [FULL, OTHER]})
    heard.is_late.set()
    await heard.take(ID, event("app_mention"), is_mention=True)
    assert (heard.deliveries, heard.num_look_ups) == ([(("F1", "F2"), True, False)], 1)


async def test_both_events_without_files_need_no_look_up() -> None:
    heard = Heard()
    first = asyncio.create_task(heard.take(ID, event("message"), is_mention=True))
    await heard.take(ID, event("app_mention"), is_mention=True)
    await asyncio.wait_for(first, 5)
    assert (heard.deliveries, heard.num_look_ups) == ([((), True, False)], 0)


async def test_what_mentions_nobody_waits_for_nothing() -> None:
    heard = Heard()
    await heard.take(ID, event("message", channel_type="channel"), is_mention=False)
    assert (heard.deliveries, heard.num_look_ups) == ([((), False, False)], 0)


async def test_a_mention_that_comes_after_the_message_was_taken_for_none_is_told() -> None:
    heard = Heard()
    await heard.take(ID, event("message"), is_mention=False)
    await heard.take(ID, event("app_mention"), is_mention=True)
    assert heard.deliveries == [((), False, False), ((), True, True)]


async def test_files_that_come_after_an_unsuccessful_look_up_are_told() -> None:
    heard = Heard()
    heard.is_late.set()
    await heard.take(ID, event("app_mention"), is_mention=True)
    await heard.take(ID, event("message", FULL, subtype="file_share"), is_mention=True)
    await heard.take(ID, event("message", FULL, subtype="file_share"), is_mention=True)
    assert heard.deliveries == [((), True, False), (("F1",), True, True)]


async def test_what_comes_late_does_not_undo_an_edit() -> None:
    heard = Heard()
    record, _ = heard.merger.add(ID, event("message", text="first"), is_mention=False)
    heard.merger.edited(ID, event("message", text="second", edited={"ts": "2.0"}))
    heard.merger.edited(("T", "C", "unknown"), event("message", text="nobody's"))
    heard.merger.add(ID, event("message", FULL, text="first"), is_mention=False)
    assert (record.event["text"], record.event["files"]) == ("second", [FULL])
    heard.merger.add(ID, event("message", text="third", edited={"ts": "3.0"}), is_mention=False)
    assert record.event["text"] == "third"


async def test_of_two_tellings_of_a_file_the_fuller_one_counts() -> None:
    record = Record(ID)
    for files in ([THIN], [FULL], [THIN]):
        record.add(event("message", *files), is_mention=True)
    assert record.event["files"] == [FULL]


async def test_other_posts_are_other_records() -> None:
    heard = Heard()
    for ts in ("1.1", "1.2"):
        await heard.take((*ID[:2], ts), event("message", FULL), is_mention=True)
    assert len(heard.deliveries) == 2


events = st.sampled_from(
    [
        event("message", FULL, OTHER, subtype="file_share"),
        event("message", THIN, OTHER, subtype="file_share"),
        event("message", subtype="file_share"),
        event("app_mention", FULL, OTHER),
        event("app_mention", FULL),
        event("app_mention", THIN),
        event("app_mention"),
    ]
)


@given(st.lists(events, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_every_order_duplicate_and_omission_is_one_post_with_all_files(
    told: list[dict[str, Any]], is_pause_over: bool, is_at_once: bool
) -> None:
    async def run() -> None:
        heard = Heard(whole={"type": "message", "files": [FULL, OTHER]})
        if is_pause_over:
            heard.is_late.set()
        if is_at_once:
            takes = [asyncio.create_task(heard.take(ID, one, is_mention=True)) for one in told]
            await asyncio.sleep(0)
            heard.is_late.set()
            await asyncio.wait_for(asyncio.gather(*takes), 5)
        else:
            for one in told:
                take = asyncio.create_task(heard.take(ID, one, is_mention=True))
                heard.is_late.set()
                await asyncio.wait_for(take, 5)
        firsts = [delivery for delivery in heard.deliveries if not delivery[2]]
        assert len(firsts) == 1
        assert heard.num_look_ups <= 1
        known = {str(file["id"]) for one in told for file in one["files"]}
        if heard.num_look_ups:
            known |= {"F1", "F2"}
        assert set(heard.deliveries[-1][0]) == known
        assert all(is_mention for _, is_mention, _ in heard.deliveries)
        if not any(one["files"] for one in told) and len({one["type"] for one in told}) == 1:
            assert heard.num_look_ups == 1

    asyncio.run(run())
