"""Every way in which a picture comes to Discord, and what becomes of one that does not."""

from __future__ import annotations

import pytest

from adapters.base import Attachment, AttachmentError
from tests.adapters.discord_world import ME, World, world
from tests.chat_handler import draw_image
from tests.loopbacks.discord.payloads import ANN, GUILD, Payload, message_payload, user_payload

BOB = user_payload(5, "bob")


async def _came(w: World) -> tuple[Attachment, ...]:
    """What the bot was given with the one question that was asked."""
    await w.handler.answer_next("A red circle.")
    [message] = w.handler.messages
    if not message.attachments and message.look_back is not None:
        return tuple(await message.look_back())
    return message.attachments


async def _bytes(attachments: tuple[Attachment, ...]) -> list[bytes]:
    return [await attachment.fetch(10**7) for attachment in attachments]


def embed(w: World, kind: str, *, name: str = "thumbnail") -> Payload:
    file = w.image("proxied.png")
    shown = {"url": "https://example.org/cat.png", "proxy_url": file["url"], "width": 1, "height": 1}
    return {"type": kind, "url": "https://example.org/cat", name: shown}


async def test_several_attachments_all_come_with_their_names_and_sizes() -> None:
    async with world() as w:
        await w.ask(attachments=[w.image("a.png"), w.image("b.jpg")])
        came = await _came(w)
        assert [(attachment.name, attachment.size) for attachment in came] == [
            ("a.png", len(draw_image())),
            ("b.jpg", len(draw_image())),
        ]
        assert await _bytes(came) == [draw_image()] * 2


async def test_the_picture_of_the_message_that_is_replied_to() -> None:
    async with world() as w:
        shown = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("bobs.png")])
        await w.ask(attachments=[], message_reference=_reference(shown), referenced_message=shown, type=19)
        assert [attachment.name for attachment in await _came(w)] == ["bobs.png"]


async def test_the_own_picture_wins_over_that_of_the_message_that_is_replied_to() -> None:
    async with world() as w:
        shown = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("bobs.png")])
        await w.ask(message_reference=_reference(shown), referenced_message=shown, type=19)
        assert [attachment.name for attachment in await _came(w)] == ["a.png"]


async def test_a_message_that_discord_did_not_resolve_is_fetched() -> None:
    async with world() as w:
        shown = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("bobs.png")])
        await w.ask(attachments=[], message_reference=_reference(shown), type=19)
        assert [attachment.name for attachment in await _came(w)] == ["bobs.png"]


async def test_a_deleted_message_is_named() -> None:
    async with world() as w:
        gone = w.discord.people_say(w.channel, "Look!", BOB)
        await w.ask(attachments=[], message_reference=_reference(gone), referenced_message=None, type=19)
        await w.discord.wait_for(lambda: any("deleted" in text for text in w.texts(_only_thread(w))))
        assert w.texts(_only_thread(w)) == ["I could not use the message that you replied to: it was deleted."]


async def test_a_forwarded_message() -> None:
    async with world() as w:
        direct = w.discord.add_direct()
        inner = message_payload(1, 2, "Look!", BOB, attachments=[w.image("forwarded.png")])
        await w.ask(
            "",
            direct,
            attachments=[],
            message_reference={"type": 1, "message_id": "1", "channel_id": "2"},
            message_snapshots=[{"message": inner}],
        )
        assert await _bytes(await _came(w)) == [draw_image()]


async def test_the_first_message_of_a_thread() -> None:
    async with world() as w:
        starter = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("first.png")])
        thread = w.discord.add_thread(w.channel, ANN, id=starter["id"])
        await w.discord.dispatch("THREAD_CREATE", w.discord.channels[thread])
        await w.ask(channel=thread, attachments=[])
        assert [attachment.name for attachment in await _came(w)] == ["first.png"]


async def test_an_earlier_message_of_a_thread_comes_before_its_first() -> None:
    async with world() as w:
        starter = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("first.png")])
        thread = w.discord.add_thread(w.channel, ANN, id=starter["id"])
        await w.discord.dispatch("THREAD_CREATE", w.discord.channels[thread])
        w.discord.people_say(thread, "Or this", BOB, attachments=[w.image("later.png")])
        await w.ask(channel=thread, attachments=[])
        assert [attachment.name for attachment in await _came(w)] == ["later.png"]


async def test_what_the_same_person_posted_just_before_in_a_channel() -> None:
    async with world() as w:
        w.discord.people_say(w.channel, "", attachments=[w.image("mine.png")])
        w.discord.people_say(w.channel, "", BOB, attachments=[w.image("bobs.png")])
        await w.ask(attachments=[])
        assert [attachment.name for attachment in await _came(w)] == ["mine.png"]


async def test_a_link_that_discord_resolved_already() -> None:
    async with world() as w:
        await w.ask(f"{ME} https://example.org/cat", attachments=[], embeds=[embed(w, "image")])
        came = await _came(w)
        assert [attachment.link for attachment in came] == ["https://example.org/cat"]
        assert await _bytes(came) == [draw_image()]


async def test_a_link_that_resolves_later() -> None:
    async with world(embed_seconds=5.0) as w:
        asked = await w.ask(f"{ME} What is https://example.org/cat", attachments=[])
        await w.discord.edit(asked, is_real=False, embeds=[embed(w, "article", name="image")])
        assert await _bytes(await _came(w)) == [draw_image()]


async def test_a_link_whose_update_was_missed_is_read_once_more() -> None:
    async with world(embed_seconds=0.01) as w:
        asked = w.discord.people_say(w.channel, f"{ME} What is https://example.org/cat", attachments=[])
        early = dict(asked)
        asked["embeds"] = [embed(w, "image")]
        await w.discord.dispatch("MESSAGE_CREATE", early)
        assert await _bytes(await _came(w)) == [draw_image()]


async def test_a_page_that_is_mentioned_in_a_chat_is_no_new_picture() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered()
        await w.discord.post(int(asked["id"]), "Like https://example.org/cat ?", embeds=[embed(w, "article")])
        await w.answered()
        assert w.handler.messages[1].attachments == ()


async def test_stickers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        monkeypatch.setattr("discord.asset.Asset.BASE", w.discord.url)  # discord.py knows where Discord keeps them
        w.discord.files["/stickers/8.png"] = draw_image()
        stickers = [{"id": "8", "name": "wave", "format_type": 1}, {"id": "9", "name": "dance", "format_type": 3}]
        await w.ask(attachments=[], sticker_items=stickers)
        thread = await w.discord.wait_for(lambda: _only_thread(w))
        await w.discord.wait_for(lambda: w.texts(thread))
        [message] = w.handler.messages
        assert await message.attachments[0].fetch(10**7) == draw_image()
        with pytest.raises(AttachmentError, match="not a picture"):
            await message.attachments[1].fetch(10**7)


async def test_a_sticker_that_is_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        monkeypatch.setattr("discord.asset.Asset.BASE", w.discord.url)
        w.discord.files["/stickers/8.png"] = draw_image()
        snapshot = {"message": {**_SNAPSHOT, "sticker_items": [{"id": "8", "name": "wave", "format_type": 1}]}}
        await w.ask(attachments=[], message_snapshots=[snapshot])
        assert await _bytes(await _came(w)) == [draw_image()]


_SNAPSHOT: Payload = {
    "type": 0,
    "content": "",
    "embeds": [],
    "attachments": [],
    "timestamp": "2026-01-01T00:00:00+00:00",
    "edited_timestamp": None,
}


def _media(w: World, name: str, **more: object) -> Payload:
    url = w.image(name)["url"]
    return {"url": "https://example.org/x.png", "proxy_url": url, "width": 1, "height": 1, "content_type": "image/png", **more}


def _in_components(w: World) -> list[Payload]:
    """A gallery, and in a container a thumbnail beside text, and a file."""
    section = {"type": 9, "components": [{"type": 10, "content": "Look"}], "accessory": {"type": 11, "media": _media(w, "b.png")}}
    file = {"type": 13, "file": _media(w, "c.png"), "name": "c.png", "size": 5}
    return [
        {"type": 10, "content": "Here:"},
        {"type": 12, "items": [{"media": _media(w, "a.png")}]},
        {"type": 17, "components": [section, {"type": 14}, file, {"type": 99}]},
    ]


@pytest.mark.parametrize("how", ["replied to", "forwarded"])
async def test_the_pictures_that_a_programs_message_shows_in_components(how: str) -> None:
    async with world() as w:
        if how == "replied to":
            shown = w.discord.people_say(w.channel, "", BOB, components=_in_components(w), flags=1 << 15)
            await w.ask(attachments=[], message_reference=_reference(shown), referenced_message=shown, type=19)
        else:
            await w.ask(attachments=[], message_snapshots=[{"message": {**_SNAPSHOT, "components": _in_components(w)}}])
        came = await _came(w)
        assert [attachment.name for attachment in came] == ["the embedded picture", "the embedded picture", "c.png"]
        assert await _bytes(came) == [draw_image()] * 3


async def test_an_attachment_that_is_shown_in_a_component_comes_once() -> None:
    async with world() as w:
        file = w.image("a.png")
        gallery = {"type": 12, "items": [{"media": _media(w, "a.png", attachment_id=file["id"])}]}
        shown = w.discord.people_say(w.channel, "", BOB, components=[gallery], attachments=[file], flags=1 << 15)
        await w.ask(attachments=[], message_reference=_reference(shown), referenced_message=shown, type=19)
        assert [attachment.name for attachment in await _came(w)] == ["a.png"]


async def test_an_expired_address_is_asked_for_anew() -> None:
    async with world() as w:
        file = w.image()
        asked = w.discord.people_say(w.channel, f"{ME} What?", attachments=[{**file, "url": f"{file['url']}.expired"}])
        early = dict(asked)
        asked["attachments"] = [file]
        await w.discord.dispatch("MESSAGE_CREATE", early)
        assert await _bytes(await _came(w)) == [draw_image()]


async def test_a_picture_that_is_gone_is_named_with_its_reason() -> None:
    async with world() as w:
        file = w.image("cat.png")
        w.discord.files.clear()
        asked = await w.ask(attachments=[file])
        thread = int(asked["id"])
        await w.discord.wait_for(lambda: w.texts(thread))
        assert w.texts(thread) == ["I could not use cat.png: it is no longer there."]


def _reference(message: Payload) -> Payload:
    return {"type": 0, "message_id": message["id"], "channel_id": message["channel_id"], "guild_id": str(GUILD)}


def _only_thread(w: World) -> int:
    return next((id_ for id_, each in w.discord.channels.items() if each["type"] == 11), 0)
