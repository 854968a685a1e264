"""The results: one set of numbers, shown as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text

from model_server.bench.machine import Machine


@dataclass(frozen=True, slots=True)
class Subject:
    """The model and its task. `weight_bytes` counts the whole model."""

    model: str
    dtype: str
    quantization: str
    weight_bytes: int
    num_image_tokens: int
    num_turns: int
    num_new_tokens: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """`num_chats` conversations at the same time. `tutorial_seconds` is the time for all of them one after another, extrapolated
    from `num_tutorial_chats`. `num_equal_turns` of the `num_compared_turns` had the same tokens on both sides."""

    num_chats: int
    num_tokens: int
    seconds: float
    tokens_per_second: float
    tutorial_seconds: float
    tutorial_tokens_per_second: float
    num_tutorial_chats: int
    ratio: float
    longest_stall_seconds: float
    num_equal_turns: int
    num_compared_turns: int
    num_server_tokens: int = 0
    server_seconds: float | None = None
    server_tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Median seconds from the question to the answer's first token, for one chat at a time. `uncached` is the second turn of a chat
    that is not in the engine's cache."""

    first_turn_seconds: float
    second_turn_seconds: float
    second_turn_uncached_seconds: float
    tutorial_first_turn_seconds: float
    tutorial_second_turn_seconds: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding only, `num_chats` answers at a time. The limit is the memory bandwidth's, with the weights and all keys and values
    read once per step."""

    num_chats: int
    tokens_per_second: float
    limit_tokens_per_second: float
    share_of_limit: float


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one run. Memory in bytes."""

    machine: Machine
    subject: Subject
    memory_bytes_per_second: float
    peak_memory_bytes: int
    first_token: FirstToken
    throughput: list[Throughput] = field(default_factory=list)
    decoding: list[Decoding] = field(default_factory=list)
    server: str | None = None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    def __rich__(self) -> Group:
        return Group(
            _header(self), "", _throughput(self), "", _first_token(self.first_token), "", _decoding(self), "", _notes(self)
        )


def _header(report: Report) -> Text:
    machine, subject = report.machine, report.subject
    threads = f"{machine.num_threads} thread{'' if machine.num_threads == 1 else 's'}"
    bits = "" if subject.quantization == "none" else f", {subject.quantization}"
    return Text(
        f"{machine.gpu or machine.processor}, {threads}; torch {machine.torch_version}, "
        f"transformers {machine.transformers_version}, Python {machine.python_version}\n"
        f"{subject.model}, {subject.dtype}{bits}, {_gigabytes(subject.weight_bytes)} of weights; "
        f"{subject.num_image_tokens} image tokens, {subject.num_turns} turns of {subject.num_new_tokens} new tokens"
    )


def _throughput(report: Report) -> Table:
    table = Table("chats", title="Conversations at the same time", title_justify="left")
    for name in ("ours, tokens/s", "plain way", "ours is", "same answers", "longest stall"):
        table.add_column(name, justify="right")
    if report.server is not None:
        table.add_column("server, tokens/s", justify="right")
    for row in report.throughput:
        cells = [
            f"{row.num_chats}",
            f"{row.tokens_per_second:.1f}",
            f"{row.tutorial_tokens_per_second:.1f}",
            f"{row.ratio:.2f}x",
            f"{row.num_equal_turns} of {row.num_compared_turns}",
            f"{row.longest_stall_seconds * 1000:.0f} ms",
        ]
        if row.server_tokens_per_second is not None:
            cells.append(f"{row.server_tokens_per_second:.1f}")
        table.add_row(*cells)
    return table


def _first_token(first: FirstToken) -> Table:
    table = Table("first token", title="A chat alone", title_justify="left")
    for name in ("turn 1", "turn 2", "turn 2, not cached"):
        table.add_column(name, justify="right")
    ours = (first.first_turn_seconds, first.second_turn_seconds, first.second_turn_uncached_seconds)
    table.add_row("ours", *(f"{seconds * 1000:.0f} ms" for seconds in ours))
    theirs = (first.tutorial_first_turn_seconds, first.tutorial_second_turn_seconds)
    table.add_row("plain way", *(f"{seconds * 1000:.0f} ms" for seconds in theirs), "")
    table.add_row("ours is sooner", "", f"{first.ratio:.1f}x", "")
    return table


def _decoding(report: Report) -> Table:
    table = Table("answers at a time", title="Writing", title_justify="left")
    for name in ("tokens/s", f"limit at {report.memory_bytes_per_second / 1e9:.0f} GB/s", "share of the limit"):
        table.add_column(name, justify="right")
    for row in report.decoding:
        table.add_row(
            f"{row.num_chats}", f"{row.tokens_per_second:.1f}", f"{row.limit_tokens_per_second:.1f}", f"{row.share_of_limit:.0%}"
        )
    return table


def _notes(report: Report) -> Text:
    lines = [
        f"Peak memory, both sides together: {_gigabytes(report.peak_memory_bytes)}.",
        "The plain way is one `generate` at a time, with the picture and all earlier turns computed again at every question.",
    ]
    measured = [row for row in report.throughput if row.num_tutorial_chats < row.num_chats]
    if measured:
        lines.append(
            f"No more than {measured[0].num_tutorial_chats} chat(s) of a row were measured in the plain way; the others are "
            "counted as equally long."
        )
    if report.server is not None:
        lines.append(f"Server: {report.server}. Its answers may be shorter: tokens/s counts those that it wrote.")
    return Text("\n".join(lines))


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
