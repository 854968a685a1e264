"""`threadsight bench`: its options and its output. Imports torch only when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from model_server.errors import ModelServerError

if TYPE_CHECKING:
    from model_server.bench.results import Report
    from model_server.checkpoints.loading import Checkpoint

_FILE_WIDTH = 110  # columns, when the output is not a terminal
_RANDOM = ("llava-1.5-7b", "llava-1.5-13b", "bench-58m", "bench-tiny")
_QUANTIZATIONS = ("none", "8bit", "4bit", "auto")


class BenchError(ModelServerError):
    """The options ask for something that cannot be measured. The message is for the person who gave them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `threadsight bench`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", help="a hub id, a folder, or tiny (default: the model of the settings)")
    what.add_argument("--random-weights", choices=_RANDOM, help="a model of this shape with random weights: nothing is downloaded")
    parser.add_argument("--quantization", choices=_QUANTIZATIONS, help="fewer bits per weight (default: as the settings say)")
    parser.add_argument(
        "--chats", type=_counts, default=(1, 4, 16, 64), metavar="N,N,…", help="chats at the same time (default: 1,4,16,64)"
    )
    parser.add_argument("--turns", type=_count, default=3, metavar="N", help="turns of each chat (default: 3)")
    parser.add_argument("--new-tokens", type=_count, default=32, metavar="N", help="tokens of each answer (default: 32)")
    parser.add_argument("--threads", type=_count, metavar="N", help="threads of the CPU (default: as many as it has cores)")
    parser.add_argument("--quick", action="store_true", help="1 and 4 chats only, each measured once: a first idea")
    parser.add_argument("--against", metavar="URL", help="have the same conversations with this OpenAI-compatible server, too")
    parser.add_argument("--against-model", metavar="NAME", help="which of its models (default: the first that it lists)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--yes", action="store_true", help="measure a large model without a GPU, though it takes hours")


async def run(
    options: argparse.Namespace,
    *,
    model: str,
    quantization: str,
    against_api_key: str | None = None,
    against_proxy: str | None = None,
) -> int:
    """Measure and print the results. Returns the exit status. `model` and `quantization` are the defaults for the options,
    `against_proxy` is the URL of the proxy before the other server.

    Raises a `ModelServerError`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if options.against_model and not options.against:
        raise BenchError("--against-model needs --against: the address of the server that has this model.")
    options.model = options.model or model
    options.quantization = options.quantization or quantization
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading the model", total=None)

        def on_step(doing: str, total: int) -> None:
            progress.update(task, description=doing, total=total, advance=1)

        report = await _measure(options, against_api_key, against_proxy, on_step)
    if options.json:
        print(report.to_json())
    else:
        Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(report)
    return 0


async def _measure(
    options: argparse.Namespace, against_api_key: str | None, against_proxy: str | None, on_step: Callable[[str, int], None]
) -> Report:
    import asyncio

    import torch

    from model_server.bench.measure import Measurement, Plan
    from model_server.packed.engine import PackedEngine
    from model_server.remote.connection import RemoteServer

    if options.threads:
        torch.set_num_threads(options.threads)
    server = None
    if options.against:
        server = RemoteServer(options.against, against_api_key, options.against_model, proxy=against_proxy)
    plan = Plan(
        num_chats=options.chats,
        num_turns=options.turns,
        num_new_tokens=options.new_tokens,
        server=server,
    )
    if options.quick:
        plan = plan.quick()
    checkpoint = await asyncio.to_thread(_load, options)
    plan.check(checkpoint)
    measurement = await asyncio.to_thread(
        Measurement,
        checkpoint,
        plan,
        lambda checkpoint, max_running: PackedEngine(checkpoint, max_running=max_running),
        lambda doing: on_step(doing, plan.num_steps),
    )
    return await measurement.run()


def _load(options: argparse.Namespace) -> Checkpoint:
    from model_server.bench.random_weights import random_checkpoint
    from model_server.checkpoints.loading import load_checkpoint

    if options.random_weights:
        return random_checkpoint(options.random_weights, quantization=options.quantization, is_patient=options.yes)
    return load_checkpoint(options.model, quantization=options.quantization)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({_count(part.strip()) for part in text.split(",")}))
