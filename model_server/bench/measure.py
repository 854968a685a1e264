"""One run: measures both sides alternately."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from model_server.bench.conversation import QUESTIONS, Chat, converse, converse_all, make_chats, watch_event_loop
from model_server.bench.machine import memory_bandwidth, peak_memory_bytes, this_machine
from model_server.bench.results import Decoding, FirstToken, Report, Subject, Throughput
from model_server.bench.tutorial import Tutorial, never_end
from model_server.checkpoints.loading import Checkpoint
from model_server.engine import Engine
from model_server.errors import RequestRefused
from model_server.loop import InferenceLoop
from model_server.remote.connection import RemoteServer
from model_server.remote.engine import open_remote

_SYSTEM_TOKENS = 60
_QUICK_CHATS = 4
_DECODING_FACTOR = 2  # answers are longer by this factor where only decoding is measured


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. For each row, the plain way has at most `num_tutorial_chats` chats, one after another."""

    num_chats: tuple[int, ...]
    num_turns: int = 3
    num_new_tokens: int = 32
    num_tutorial_chats: int = 4
    num_rounds: int = 3
    server: RemoteServer | None = None

    def quick(self) -> Plan:
        few = tuple(n for n in self.num_chats if n <= _QUICK_CHATS) or self.num_chats[:1]
        return replace(self, num_chats=few, num_tutorial_chats=1, num_rounds=1)

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise `RequestRefused` if a chat does not fit the model's context."""
        num_new_tokens = (self.num_turns + _DECODING_FACTOR) * self.num_new_tokens
        questions = 2 * sum(len(QUESTIONS[i % len(QUESTIONS)].split()) for i in range(self.num_turns + 1))
        num_tokens = checkpoint.num_image_tokens + _SYSTEM_TOKENS + questions + num_new_tokens
        if num_tokens > checkpoint.context_length:
            raise RequestRefused(
                f"Such a chat would have about {num_tokens} tokens, and {checkpoint.name} takes {checkpoint.context_length}. "
                "Please ask for fewer --turns or --new-tokens."
            )

    @property
    def num_steps(self) -> int:
        """Number of answers that will be written, for the progress display."""
        first_token = self.num_rounds * 5
        sides = 2 if self.server is None else 3
        crowds = sum(self.num_repeats(n) * ((sides - 1) * n + min(n, self.num_tutorial_chats)) for n in self.num_chats)
        return 2 + first_token + crowds * self.num_turns + sum(self.num_chats)

    def num_repeats(self, num_chats: int) -> int:
        """How often to measure: several times when there are few chats, which end soon."""
        return max(1, self.num_tutorial_chats // num_chats)


class Measurement:
    """Measures `checkpoint`, which it takes over, with the engine that `make_engine` makes from it and a number of requests at a
    time."""

    def __init__(
        self, checkpoint: Checkpoint, plan: Plan, make_engine: Callable[[Checkpoint, int], Engine], on_step: Callable[[str], None]
    ) -> None:
        never_end(checkpoint)
        self._checkpoint = checkpoint
        self._plan = plan
        self._tutorial = Tutorial(checkpoint)
        self._max_running = max(plan.num_chats)
        self._engine = make_engine(checkpoint, self._max_running)
        self._on_step = on_step
        self._num_seeds = 0
        self._doing = ""

    async def run(self) -> Report:
        """Measure everything. Raises a `ModelServerError`."""
        loop = InferenceLoop(self._engine, max_queue=self._max_running, max_running=self._max_running)
        server: InferenceLoop | None = None
        try:
            await loop.start()
            if self._plan.server is not None:
                server = await open_remote(self._plan.server, max_queue=self._max_running, max_running=self._max_running)
            return await self._measure(loop, server)
        finally:
            await loop.close()
            if server is not None:
                await server.close()

    async def _measure(self, loop: InferenceLoop, server: InferenceLoop | None) -> Report:
        checkpoint, plan = self._checkpoint, self._plan
        device = checkpoint.model.device
        bandwidth = await asyncio.to_thread(memory_bandwidth, device)
        await self._warm_up(loop)
        first_token = await self._first_token(loop)
        throughput, decoding = [], []
        for num_chats in plan.num_chats:
            row, chats = await self._throughput(loop, server, num_chats)
            throughput.append(row)
            decoding.append(await self._decoding(loop, chats, bandwidth))
        subject = Subject(
            model=checkpoint.name,
            dtype=str(checkpoint.model.dtype).removeprefix("torch."),
            quantization=checkpoint.plan.quantization,
            weight_bytes=checkpoint.plan.weight_bytes,
            num_image_tokens=checkpoint.num_image_tokens,
            num_turns=plan.num_turns,
            num_new_tokens=plan.num_new_tokens,
        )
        return Report(
            machine=this_machine(),
            subject=subject,
            memory_bytes_per_second=bandwidth,
            peak_memory_bytes=peak_memory_bytes(device),
            first_token=first_token,
            throughput=throughput,
            decoding=decoding,
            server=None if server is None or plan.server is None else f"{server.capabilities.model_name} at {plan.server.url}",
        )

    async def _warm_up(self, loop: InferenceLoop) -> None:
        self._doing = "warming up"
        ours, theirs = self._chats(2)
        await converse(loop, ours, 1, 4, self._step)
        await self._by_tutorial([theirs], 1, 4)

    async def _first_token(self, loop: InferenceLoop) -> FirstToken:
        """One round: two turns on each side, and our second turn again with a picture that the engine has not seen."""
        self._doing = "first token"
        rounds = []
        for _ in range(self._plan.num_rounds):
            theirs, ours, stranger = self._chats(3)
            await self._by_tutorial([theirs], 2, 2)
            await converse(loop, ours, 1, 2, self._step)
            unknown = ours.about(stranger.image)
            await converse(loop, ours, 1, 2, self._step)
            await converse(loop, unknown, 1, 2, self._step)
            turns = (*ours.turns, unknown.turns[-1], *theirs.turns)
            rounds.append([turn.first_token_seconds for turn in turns])
        first, second, uncached, tutorial_first, tutorial_second = (statistics.median(times) for times in zip(*rounds, strict=True))
        return FirstToken(first, second, uncached, tutorial_first, tutorial_second, ratio=tutorial_second / second)

    async def _throughput(
        self, loop: InferenceLoop, server: InferenceLoop | None, num_chats: int
    ) -> tuple[Throughput, Sequence[Chat]]:
        """The plain way runs half of its chats before ours and half after. Also returns the last round's chats."""
        plan = self._plan
        num_theirs = min(num_chats, plan.num_tutorial_chats)
        seconds = tutorial_seconds = server_seconds = longest_stall = 0.0
        num_equal = num_compared = num_tokens = num_server_tokens = 0
        num_rounds = plan.num_repeats(num_chats)
        chats: Sequence[Chat] = ()
        for _ in range(num_rounds):
            seed = self._next_seed()
            chats, theirs = make_chats(num_chats, seed), make_chats(num_theirs, seed)
            self._doing = f"{num_chats} chats, one at a time"
            half = (num_theirs + 1) // 2
            tutorial_seconds += await self._by_tutorial(theirs[:half], plan.num_turns, plan.num_new_tokens)
            self._doing = f"{num_chats} chats at the same time"
            async with watch_event_loop() as stall:
                seconds += await converse_all(loop, chats, plan.num_turns, plan.num_new_tokens, self._step)
            longest_stall = max(longest_stall, stall.longest_seconds)
            if server is not None:
                self._doing = f"{num_chats} chats on the server"
                asked = make_chats(num_chats, seed)
                server_seconds += await converse_all(server, asked, plan.num_turns, plan.num_new_tokens, self._step)
                num_server_tokens += _num_tokens(asked)
            self._doing = f"{num_chats} chats, one at a time"
            tutorial_seconds += await self._by_tutorial(theirs[half:], plan.num_turns, plan.num_new_tokens)
            num_tokens += _num_tokens(chats)
            pairs = [pair for one, other in zip(chats, theirs, strict=False) for pair in zip(one.turns, other.turns, strict=True)]
            num_compared += len(pairs)
            num_equal += sum(one.token_ids == other.token_ids for one, other in pairs)
        tutorial_seconds *= num_chats / num_theirs
        row = Throughput(
            num_chats=num_chats,
            num_tokens=num_tokens,
            seconds=seconds,
            tokens_per_second=num_tokens / seconds,
            tutorial_seconds=tutorial_seconds,
            tutorial_tokens_per_second=num_tokens / tutorial_seconds,
            num_tutorial_chats=num_theirs,
            ratio=tutorial_seconds / seconds,
            longest_stall_seconds=longest_stall,
            num_equal_turns=num_equal,
            num_compared_turns=num_compared,
            num_server_tokens=num_server_tokens,
            server_seconds=server_seconds or None,
            server_tokens_per_second=num_server_tokens / server_seconds if server_seconds else None,
        )
        return row, chats

    async def _decoding(self, loop: InferenceLoop, chats: Sequence[Chat], bandwidth: float) -> Decoding:
        """One more turn of all chats, measured from when all are writing until the first has ended."""
        self._doing = f"writing {len(chats)} answers at a time"
        await converse_all(loop, chats, 1, _DECODING_FACTOR * self._plan.num_new_tokens, self._step)
        turns = [chat.turns[-1] for chat in chats]
        start = max(turn.token_times[0] for turn in turns)
        end = min(turn.token_times[-1] for turn in turns)
        num_tokens = sum(start < at <= end for turn in turns for at in turn.token_times)
        num_known = sum(
            self._engine.num_prompt_tokens(chat.messages[:-1]) + turn.num_tokens // 2
            for chat, turn in zip(chats, turns, strict=True)
        )
        plan = self._checkpoint.plan
        limit = len(chats) * bandwidth / (plan.step_bytes + num_known * plan.cache_bytes_per_token)
        speed = num_tokens / (end - start) if end > start else 0.0
        return Decoding(len(chats), speed, limit, share_of_limit=speed / limit)

    async def _by_tutorial(self, chats: Sequence[Chat], num_turns: int, num_new_tokens: int) -> float:
        """Run the plain way in a thread, updating the display after every turn. Returns the duration in seconds."""
        seconds = 0.0
        for chat in chats:
            for _ in range(num_turns):
                seconds += await asyncio.to_thread(self._tutorial.converse, chat, 1, num_new_tokens)
                self._step()
        return seconds

    def _chats(self, num_chats: int) -> list[Chat]:
        return make_chats(num_chats, self._next_seed())

    def _next_seed(self) -> int:
        self._num_seeds += 1
        return self._num_seeds

    def _step(self) -> None:
        self._on_step(self._doing)


def _num_tokens(chats: Sequence[Chat]) -> int:
    return sum(turn.num_tokens for chat in chats for turn in chat.turns)
