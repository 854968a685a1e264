"""Evaluate `tiny` on new pictures: `python -m model_server.tiny.evaluate`.

Every answer is made as for a user (encoded picture, prompt, engine, greedy decoding), and is right only if every word is.
Follow-ups are asked after the model's own earlier answer.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
from collections import Counter
from collections.abc import Callable

from PIL import Image as PilImage
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from model_server.images import read_image
from model_server.local import open_local
from model_server.loop import InferenceLoop
from model_server.types import ChatRequest, Finished, Message, Role, SamplingParams

from .dialogue import KINDS, Dialogue, Turn
from .draw import Scene, draw, random_scene

PASS_MARK = 0.95
_GREEDY = SamplingParams(max_new_tokens=128, temperature=0)
_FIRST_SEED = 2**41  # used neither for training nor for checks during training


def _png(image: PilImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(image: PilImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return buffer.getvalue()


def _resized(scene: Scene, rng: random.Random) -> bytes:
    """Drawn large or small, then resized to something else, as a chat platform does."""
    image = draw(scene, rng.choice((128, 480)))
    scale = rng.uniform(0.6, 1.7)
    return _png(image.resize((round(image.width * scale), round(image.height * scale)), PilImage.Resampling.BILINEAR))


def _is_square(scene: Scene) -> bool:
    return scene.width == scene.height


# name, filter of scenes, function that makes the picture, whether the wording is held out
Condition = tuple[str, Callable[[Scene], bool], Callable[[Scene, random.Random], bytes], bool]
CONDITIONS: tuple[Condition, ...] = (
    ("as drawn", _is_square, lambda scene, rng: _png(draw(scene, 256)), False),
    ("JPEG quality 30", _is_square, lambda scene, rng: _jpeg(draw(scene, 256)), False),
    ("resized", _is_square, _resized, False),
    ("other canvas", lambda scene: not _is_square(scene), lambda scene, rng: _png(draw(scene, 320)), False),
    ("rephrased", _is_square, lambda scene, rng: _png(draw(scene, 256)), True),
)


def _examination(kind: str, seed: int, condition: Condition) -> tuple[bytes, list[Turn]]:
    """A picture and the turns to ask, of which the last one counts."""
    _, is_wanted, encode, is_held_out = condition
    rng = random.Random(seed)
    while True:
        scene = random_scene(rng)
        talk = Dialogue(scene, rng, is_held_out)
        turns = [talk.turn(), talk.turn(kind)] if kind == "follow_up" else [talk.turn(kind)]
        if is_wanted(scene) and turns[-1].kind == kind:
            return encode(scene, rng), turns


async def _answer(loop: InferenceLoop, messages: list[Message], name: str) -> Finished:
    async with loop.submit(ChatRequest(name, tuple(messages), _GREEDY)) as stream:
        async for event in stream:
            if isinstance(event, Finished):
                return event
    raise AssertionError("a stream ends with Finished or an error")


async def _examine(loop: InferenceLoop, kind: str, seed: int, condition: Condition) -> tuple[bool, str]:
    data, turns = await asyncio.to_thread(_examination, kind, seed, condition)
    image = await asyncio.to_thread(read_image, data, "drawing")
    messages: list[Message] = []
    said = ""
    for number, turn in enumerate(turns):
        messages.append(Message(Role.USER, turn.question, (image,) if number == 0 else ()))
        finished = await _answer(loop, messages, f"{condition[0]}-{kind}-{seed}-{number}")
        said = finished.text.strip()
        messages.append(Message(Role.ASSISTANT, finished.text, token_ids=finished.token_ids))
    wanted = turns[-1]
    asked = " / ".join(turn.question for turn in turns)
    return said == wanted.answer, f"[{condition[0]}, {kind}] {asked}\n    said   {said}\n    wanted {wanted.answer}"


async def evaluate(
    model: str = "tiny", num_questions: int = 200, first_seed: int = _FIRST_SEED, progress: Progress | None = None
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Evaluate a model. Returns accuracy (0 to 1) by kind of question and condition, from `num_questions` each, and all wrong
    answers as text."""
    loop = await open_local(model, max_queue=128, max_running=32)
    right: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    gate = asyncio.Semaphore(64)
    task = progress.add_task("examining", total=len(KINDS) * len(CONDITIONS) * num_questions) if progress else None

    async def one(kind: str, number: int, condition: Condition) -> None:
        async with gate:
            seed = first_seed + 1000 * KINDS.index(kind) + 100_000 * CONDITIONS.index(condition) + number
            is_right, report = await _examine(loop, kind, seed, condition)
        right[kind, condition[0]] += is_right
        if not is_right:
            wrong.append(report)
        if progress and task is not None:
            progress.advance(task)

    try:
        async with asyncio.TaskGroup() as group:
            for condition in CONDITIONS:
                for kind in KINDS:
                    for number in range(num_questions):
                        group.create_task(one(kind, number, condition))
    finally:
        await loop.close()
    return {kind: {name: right[kind, name] / num_questions for name, *_ in CONDITIONS} for kind in KINDS}, wrong


def main() -> None:
    """Examine the model and print the table; the arguments come from the command line."""
    parser = argparse.ArgumentParser(description="Examine the bundled model on fresh pictures.")
    parser.add_argument("--model", default="tiny", help="tiny, or a folder with another training's result")
    parser.add_argument("--questions", type=int, default=200, help="per kind and condition (at most 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another number draws other pictures")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    with Progress(console=Console(stderr=True)) as progress:
        table, wrong = asyncio.run(evaluate(args.model, min(args.questions, 1000), _FIRST_SEED + 10_000_000 * args.seed, progress))
    if args.wrong:
        print("\n".join(wrong))
    if args.json:
        print(json.dumps(table))
    elif args.markdown:
        print(as_markdown(table))
    else:
        Console().print(_as_table(table))
    if any(accuracy < PASS_MARK for row in table.values() for accuracy in row.values()):
        raise SystemExit(f"Below {PASS_MARK:.0%} somewhere.")


def as_markdown(table: dict[str, dict[str, float]]) -> str:
    """The table for a README: kinds of question by conditions."""
    names = [name for name, *_ in CONDITIONS]
    lines = [f"| kind of question | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines += [f"| {kind.replace('_', ' ')} | {' | '.join(f'{row[name]:.1%}' for name in names)} |" for kind, row in table.items()]
    return "\n".join(lines)


def _as_table(table: dict[str, dict[str, float]]) -> Table:
    shown = Table("kind of question", *(name for name, *_ in CONDITIONS))
    for kind, row in table.items():
        shown.add_row(
            kind.replace("_", " "), *(f"{value:.1%}" if value >= PASS_MARK else f"[red]{value:.1%}" for value in row.values())
        )
    return shown


if __name__ == "__main__":
    main()
