"""Dialogues about a scene: questions of every kind that `tiny` can answer, each with its one right answer.

An answer is a function of the scene and of the earlier questions, so that answers can be compared word for word.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .draw import COLOUR_NAMES, SHAPES, ZONES, Scene, Thing
from .strangers import ANSWER, strange_question
from .wording import ASK, HELD_OUT, PLACES, typed

KINDS = ("describe", "colour", "shape", "position", "size", "count", "existence", "what_at", "follow_up", "other")
_NUMBERS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a question is about: things of a shape, a colour, or both; with neither, all things."""

    shape: str | None = None
    colour: str | None = None

    def matches(self, thing: Thing) -> bool:
        return self.shape in (None, thing.shape) and self.colour in (None, thing.colour)

    def noun(self, plural: bool = False, generic: str = "one") -> str:
        """ "red circle", "circles", "red one"."""
        head = self.shape or generic
        if plural:
            head = {"cross": "crosses"}.get(head, head + "s")
        return f"{self.colour} {head}" if self.colour else head


EVERYTHING = Spec()


@dataclass(frozen=True, slots=True)
class Turn:
    """A question about a scene and its right answer. `kind`: what is asked for, such as a count."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class _Topic:
    """What the last turn was about; `attribute` is the one that was asked for."""

    spec: Spec
    things: tuple[Thing, ...]
    attribute: str


def article(noun: str) -> str:
    """The noun with its article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def listed(items: list[str]) -> str:
    """The items as an English list."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def full_name(thing: Thing) -> Spec:
    """What names the thing completely: shape and colour."""
    return Spec(thing.shape, thing.colour)


def describe(scene: Scene) -> str:
    """The right description of the scene."""
    if not scene.things:
        return "I see nothing but the background."
    return f"I see {listed([f'{article(full_name(thing).noun())} {ZONES[thing.zone]}' for thing in scene.things])}."


def _nothing(spec: Spec) -> str:
    if spec == EVERYTHING:
        return "I see nothing but the background."
    return f"I do not see {article(spec.noun())}." if spec.shape else f"I do not see anything {spec.colour}."


def _together(values: list[str], same: str) -> str:
    """Several values listed, or `same` once when they are all the same."""
    if len(set(values)) > 1:
        return listed(values)
    return f"{'both' if len(values) == 2 else 'all'} {same}"


def tell(scene: Scene, spec: Spec, attribute: str, name: str | None = None, things: tuple[Thing, ...] | None = None) -> str:
    """The answer to a question about an attribute of the things of `spec` (or of `things`, called `name`)."""
    if things is None:
        things = tuple(thing for thing in scene.things if spec.matches(thing))
    if attribute == "count":
        noun = spec.noun(plural=len(things) != 1, generic="shape" if spec == EVERYTHING else "thing")
        return f"There {'is' if len(things) == 1 else 'are'} {_NUMBERS[len(things)]} {noun}."
    if attribute == "existence":
        if not things:
            return f"No, there is no {spec.noun(generic='thing')}."
        if len(things) > 1:
            return f"Yes, there are {_NUMBERS[len(things)]} {spec.noun(plural=True, generic='thing')}."
        return f"Yes, there is {article(spec.noun(generic='thing'))} {ZONES[things[0].zone]}."
    if not things:
        return _nothing(spec)
    if spec == EVERYTHING and name is None:
        if attribute in ("position", "shape"):
            return describe(scene)
        if len(things) == 1:
            name = things[0].shape
        elif attribute == "colour":
            return f"I see {listed([thing.colour for thing in things])}."
    values = {
        "colour": [thing.colour for thing in things],
        "shape": [article(thing.shape) for thing in things],
        "position": [ZONES[thing.zone] for thing in things],
        "size": [thing.size for thing in things],
    }[attribute]
    subject = name or spec.noun(plural=len(things) > 1)
    if len(things) == 1:
        return f"The {subject} is {values[0]}."
    same = Spec(things[0].shape).noun(plural=True) if attribute == "shape" else values[0]
    return f"The {subject} are {_together(values, same)}."


class Dialogue:
    """One conversation about a scene, a turn at a time."""

    def __init__(self, scene: Scene, rng: random.Random, held_out: bool = False) -> None:
        self._scene = scene
        self._rng = rng
        self._held_out = held_out
        self._topic: _Topic | None = None

    def turn(self, kind: str | None = None) -> Turn:
        """The next turn, of `kind` if given; a follow-up only if the dialogue so far allows one."""
        rng = self._rng
        if kind is None:
            weights = (9, 12, 10, 13, 7, 11, 13, 7, 0, 9) if self._topic is None else (3, 7, 5, 8, 5, 6, 7, 4, 40, 6)
            kind = rng.choices(KINDS, weights)[0]
        return getattr(self, f"_{kind}")()  # type: ignore[no-any-return]

    def _ask(self, kind: str, **words: str) -> str:
        wordings = (HELD_OUT if self._held_out else ASK)[kind]
        return typed(self._rng.choice(wordings).format(**words), self._rng)

    def _spec(self, present: float = 0.82) -> Spec:
        rng = self._rng
        if self._scene.things and rng.random() < present:
            thing = rng.choice(self._scene.things)
            shape, colour = thing.shape, thing.colour
        else:
            shape, colour = rng.choice(SHAPES), rng.choice(COLOUR_NAMES)
        return rng.choices((Spec(shape), Spec(shape, colour), Spec(colour=colour)), (5, 3, 2))[0]

    def _words(self, spec: Spec) -> dict[str, str]:
        rng = self._rng
        generic = rng.choice(("thing", "shape", "object", "one"))
        its, them = spec.noun(generic=generic), spec.noun(plural=True, generic=generic)
        if spec == EVERYTHING:
            them = rng.choice(("shapes", "things", "objects", "figures", "items"))
        num_things = sum(map(spec.matches, self._scene.things))
        plural = num_things > 1 if rng.random() < 0.85 else num_things <= 1
        it = f"the {them if plural else its}"
        return {"it": it, "its": its, "them": them, "themall": f"the {them}"}

    def _about(self, spec: Spec, attribute: str, kind: str, wording: str) -> Turn:
        question = self._ask(wording, **self._words(spec))
        things = tuple(thing for thing in self._scene.things if spec.matches(thing))
        self._topic = _Topic(spec, things, attribute)
        return Turn(kind, question, tell(self._scene, spec, attribute))

    def _describe(self) -> Turn:
        things = self._scene.things
        self._topic = _Topic(full_name(things[0]) if len(things) == 1 else EVERYTHING, things, "describe")
        return Turn("describe", self._ask("describe"), describe(self._scene))

    def _colour(self) -> Turn:
        rng = self._rng
        if rng.random() < 0.12:
            self._topic = _Topic(EVERYTHING, self._scene.things, "colour")
            wording = rng.choice(
                ("what colours do you see", "what colours are there", "which colours are in the picture", "what colours")
            )
            return Turn("colour", typed(wording, rng), tell(self._scene, EVERYTHING, "colour"))
        shape = self._spec(0.9).shape or rng.choice([thing.shape for thing in self._scene.things] or SHAPES)
        return self._about(Spec(shape), "colour", "colour", "colour")

    def _shape(self) -> Turn:
        rng = self._rng
        colours = [thing.colour for thing in self._scene.things]
        spec = Spec(colour=rng.choice(colours) if colours and rng.random() < 0.9 else rng.choice(COLOUR_NAMES))
        self._topic = _Topic(spec, tuple(filter(spec.matches, self._scene.things)), "shape")
        return Turn("shape", self._ask("shape", hue=spec.colour or ""), tell(self._scene, spec, "shape"))

    def _position(self) -> Turn:
        return self._about(self._spec(0.9), "position", "position", "position")

    def _size(self) -> Turn:
        return self._about(self._spec(0.9), "size", "size", "size")

    def _count(self) -> Turn:
        spec = EVERYTHING if self._rng.random() < 0.3 else self._spec(0.8)
        return self._about(spec, "count", "count", "count")

    def _existence(self) -> Turn:
        spec = self._spec(0.55)
        if spec.shape and spec.colour and self._rng.random() < 0.35:
            question = self._ask("is_it", shape=spec.shape, shapes=Spec(spec.shape).noun(plural=True), hue=spec.colour)
            self._topic = _Topic(spec, tuple(filter(spec.matches, self._scene.things)), "existence")
            return Turn("existence", question, tell(self._scene, spec, "existence"))
        return self._about(spec, "existence", "existence", "existence")

    def _what_at(self) -> Turn:
        rng = self._rng
        taken = [thing.zone for thing in self._scene.things if thing.zone in PLACES]
        zone = rng.choice(taken) if taken and rng.random() < 0.75 else rng.choice(list(PLACES))
        question = self._ask("what_at", place=rng.choice(PLACES[zone]))
        here = [thing for thing in self._scene.things if thing.zone == zone]
        if not here:
            return Turn("what_at", question, f"There is nothing {ZONES[zone]}.")
        self._topic = _Topic(full_name(here[0]), (here[0],), "shape")
        return Turn("what_at", question, f"There is {article(full_name(here[0]).noun())} {ZONES[zone]}.")

    def _other(self) -> Turn:
        return Turn("other", typed(strange_question(self._rng, self._held_out), self._rng), ANSWER)

    def _follow_up(self) -> Turn:
        rng, topic, scene = self._rng, self._topic, self._scene
        if topic is None:
            return self.turn(rng.choice(KINDS[:8]))
        asked = topic.attribute in ("colour", "position", "size")
        if asked and len(topic.things) == 1 and len(scene.things) == 2 and rng.random() < 0.5:
            other = next(thing for thing in scene.things if thing is not topic.things[0])
            self._topic = _Topic(full_name(other), (other,), topic.attribute)
            answer = tell(scene, topic.spec, topic.attribute, "other one", (other,))
            return Turn("follow_up", self._ask("other_again"), answer)
        if (
            topic.attribute in ("colour", "position", "size", "count", "existence")
            and topic.spec != EVERYTHING
            and rng.random() < 0.4
        ):
            wording = {"count": "switch_count", "existence": "switch_existence"}.get(topic.attribute, "switch")
            spec = self._spec(0.85)
            if topic.attribute == "colour":
                spec = Spec(spec.shape or rng.choice(SHAPES))
            return self._about(spec, topic.attribute, "follow_up", wording)
        if topic.attribute != "count" and rng.random() < 0.08:
            return self._count_again(topic)
        attribute = rng.choice([name for name in ("colour", "position", "size", "shape") if name != topic.attribute])
        if attribute == "size" and topic.spec == EVERYTHING and len(topic.things) > 1:
            attribute = "colour"
        if attribute == "shape" and topic.spec.shape:
            attribute = "position" if topic.attribute == "colour" else "colour"
        self._topic = _Topic(topic.spec, topic.things, attribute)
        return Turn("follow_up", self._ask(f"{attribute}_again"), tell(scene, topic.spec, attribute))

    def _count_again(self, topic: _Topic) -> Turn:
        things = tuple(filter(topic.spec.matches, self._scene.things))
        self._topic = _Topic(topic.spec, things, "count")
        return Turn("follow_up", self._ask("count_again"), tell(self._scene, topic.spec, "count"))
