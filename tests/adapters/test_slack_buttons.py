"""What stands around an answer: status, Stop, Regenerate, ratings, and who may press what."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.base import AnswerText, Waiting
from tests.adapters.slack_world import SlackWorld, block_types, labels, slack_world, within, words

STOP, REGENERATE, RATE = "threadsight_stop", "threadsight_regenerate", "threadsight_rate"


@pytest.fixture
async def world() -> AsyncIterator[SlackWorld]:
    async with slack_world() as world:
        yield world


async def test_a_long_wait_shows_where_it_stands_and_can_be_stopped(world: SlackWorld) -> None:
    slack, bob = world.slack, world.slack.add_user("bob")
    world.general.members.append(bob)
    question = await world.ask()
    answer = await world.handler.next_answer()
    await answer.add(Waiting(3, 20.0))
    (waiting,) = await slack.wait_for(lambda: slack.answers(world.general, question.ts))
    assert block_types(waiting)[0] == "context"
    assert labels(waiting) == {"Stop"}
    await answer.add(AnswerText("A red"))
    await slack.wait_for(lambda: world.texts(question) == ["", "A red"])
    await slack.wait_for(lambda: "writing" in waiting.shown)
    await slack.click(bob, waiting, STOP)
    (told,) = await slack.wait_for(lambda: slack.ephemeral)
    assert "Only the person who asked" in told.text
    assert not answer.is_stop_wanted.is_set()
    await slack.click(world.ann, waiting, STOP)
    await within(answer.is_stop_wanted.wait())
    await world.handler.end(answer)
    destination = await world.handler.wait_delivered(answer.turn_id)
    (shown,) = slack.answers(world.general, question.ts)
    assert words(shown) == "A red"
    assert destination.reply_ids == (f"{world.general.id}:{shown.ts}",)


async def test_a_long_stream_gets_a_stop_button_that_goes_at_its_end(world: SlackWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.slack.surface.STOP_AFTER_SECONDS", 0.0)
    question, answer = await world.begun("A ")
    await answer.add(AnswerText("red "))

    def beside() -> set[str]:
        return {label for message in world.slack.answers(world.general, question.ts)[1:] for label in labels(message)}

    await world.slack.wait_for(lambda: beside() == {"Stop"})
    await answer.add(AnswerText("circle."))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["A red circle."]


async def test_the_status_is_shown_while_nothing_is_written(world: SlackWorld) -> None:
    question = await world.ask()
    answer = await world.handler.next_answer()
    await world.slack.wait_for(lambda: world.slack.status(world.general, question.ts))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.slack.status(world.general, question.ts) == ""


async def test_an_answer_is_written_anew_and_rated(world: SlackWorld) -> None:
    slack, bob = world.slack, world.slack.add_user("bob")
    world.general.members.append(bob)
    question, shown, answer = await world.answered()
    assert labels(shown) == {"Helpful", "Not helpful", "Regenerate"}
    await slack.click(bob, shown, RATE, f"not_helpful:{answer.turn_id}")
    await slack.wait_for(lambda: slack.ephemeral)
    assert world.handler.ratings == {(answer.turn_id, bob.id): False}
    await slack.click(world.ann, shown, REGENERATE)
    again = await world.handler.next_answer()
    world.handler.delivered.clear()
    await again.add(AnswerText("A square."))
    await world.handler.end(again)
    await world.handler.wait_delivered(again.turn_id)
    assert world.texts(question) == ["A square."]


async def test_somebody_who_runs_the_workspace_may_press_others_buttons(world: SlackWorld) -> None:
    slack = world.slack
    boss, bob = slack.add_user("boss", is_admin=True), slack.add_user("bob")
    world.general.members += [boss, bob]
    question, shown, _ = await world.answered()
    await slack.click(boss, shown, REGENERATE)
    again = await world.handler.answer_next("Again.")
    await world.handler.wait_delivered(again.turn_id)
    await slack.wait_for(lambda: world.texts(question) == ["Again."])
    await slack.click(bob, shown, REGENERATE)
    (told,) = await slack.wait_for(lambda: slack.ephemeral)
    assert (told.only_for, told.thread_ts) == (bob, question.ts)


@pytest.mark.parametrize("is_agent", [True, False])
async def test_native_stop_stops_the_answer(world: SlackWorld, is_agent: bool) -> None:
    """Slack tells it of agents only; an app that is none any more is told once more at most."""
    slack = world.slack
    question, answer = await world.begun("A red")
    slack.state.is_agent = True
    await slack.stop_session(world.ann, world.general, question.ts)
    slack.state.is_agent = is_agent
    await within(answer.is_stop_wanted.wait())
    await world.called("agents.sessions.setStatus")
    assert slack.called("agents.sessions.setStatus")[0].arguments["status"] == "active"
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["A red"]
