"""`make mutants`: do the tests notice faults in the core?

Puts a seeded sample of mutmut's mutations into the modules of modules.toml, one at a time, and runs the module's own tests
against each. Prints a table and the mutants that survived, and ends with 1 when more than one in ten did. It takes up to an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import connection
from multiprocessing.context import ForkProcess

from tests.mutants import trial
from tests.mutants.faults import ROOT, Fault, equal_faults, own_tests, sample

_LEAST_LIMIT_SECONDS = 60.0
_TIMES_AS_LONG = 6  # than the tests take without a fault
_GRACE_SECONDS = 5.0
_ENOUGH_KILLED = 0.9


class Outcome(StrEnum):
    KILLED = "killed"
    SURVIVED = "survived"
    TIMED_OUT = "timed out"
    EQUAL = "equal"


@dataclass(frozen=True, slots=True)
class _Trial:
    path: str
    text: str
    limit_seconds: float
    tests: Sequence[str]


def _run_all(trials: Sequence[_Trial], num_jobs: int, on_end: Callable[[int, int | None, float], None]) -> None:
    """Run trials, `num_jobs` at a time. `on_end` gets the trial's number, its exit code (None: timeout), and its seconds."""
    fork = multiprocessing.get_context("fork")
    waiting = list(enumerate(trials))[::-1]
    running: dict[ForkProcess, tuple[int, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_jobs:
                number, one = waiting.pop()
                process = fork.Process(target=trial.run, args=(one.path, one.text, one.tests))
                process.start()
                running[process] = number, time.monotonic()
            now = time.monotonic()
            left = min(trials[number].limit_seconds - (now - began) for number, began in running.values())
            connection.wait([process.sentinel for process in running], timeout=max(0.0, left))
            for process, (number, began) in list(running.items()):
                seconds = time.monotonic() - began
                is_late = process.is_alive() and seconds > trials[number].limit_seconds
                if is_late:
                    _kill(process)
                if not process.is_alive():
                    del running[process]
                    on_end(number, None if is_late else process.exitcode, seconds)
    finally:  # interrupted
        for process in running:
            _kill(process)


def _kill(process: ForkProcess) -> None:
    """First as a person would interrupt it, so that pytest stops what the tests had started; asyncio wants to be told twice."""
    with contextlib.suppress(ProcessLookupError):
        for _ in range(2):
            os.kill(process.pid or 0, signal.SIGINT)
            process.join(_GRACE_SECONDS)
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()


def _limits(paths: Sequence[str], num_jobs: int) -> dict[str, float]:
    """The time limit in seconds for each module's tests, which are first run without a fault and must pass."""
    tests = own_tests()
    trials = [_Trial(path, (ROOT / path).read_text("utf-8"), 600.0, tests[path]) for path in paths]
    limits: dict[str, float] = {}

    def on_end(number: int, code: int | None, seconds: float) -> None:
        path = paths[number]
        if code == trial.NOT_LOADED:
            sys.exit(f"The tests of {path} do not import it; put it right in tests/mutants/modules.toml.")
        if code != 0:
            sys.exit(f"The tests of {path} fail without any fault in it: pytest {' '.join(tests[path])}")
        limits[path] = max(_LEAST_LIMIT_SECONDS, _TIMES_AS_LONG * seconds)
        print(f"{path}: its tests take {seconds:.0f} s", flush=True)

    _run_all(trials, num_jobs, on_end)
    return limits


def _try_all(faults: Sequence[Fault], limits: Mapping[str, float], num_jobs: int) -> dict[Fault, Outcome]:
    tests = own_tests()
    trials = [_Trial(fault.path, fault.text, limits[fault.path], tests[fault.path]) for fault in faults]
    outcomes: dict[Fault, Outcome] = {}

    def on_end(number: int, code: int | None, seconds: float) -> None:
        fault = faults[number]
        outcomes[fault] = Outcome.TIMED_OUT if code is None else Outcome.KILLED if code else Outcome.SURVIVED
        print(f"{len(outcomes)}/{len(faults)} {fault.path}:{fault.line} {outcomes[fault]} after {seconds:.0f} s", flush=True)

    _run_all(trials, num_jobs, on_end)
    return outcomes


def _table(outcomes: Mapping[Fault, Outcome]) -> str:
    """The results by module, in Markdown."""
    paths = list(dict.fromkeys(fault.path for fault in outcomes))
    rows = [_row(path, [outcome for fault, outcome in outcomes.items() if fault.path == path]) for path in paths]
    head = ["| module | mutants | killed | timed out | survived | equal | noticed of the rest |", "|---|--:|--:|--:|--:|--:|--:|"]
    return "\n".join([*head, *rows, _row("all", list(outcomes.values()))])


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcomes)
    numbers = [len(outcomes), *(counts[kind] for kind in (Outcome.KILLED, Outcome.TIMED_OUT, Outcome.SURVIVED, Outcome.EQUAL))]
    return f"| {name} | {' | '.join(map(str, numbers))} | {100 * _share_noticed(outcomes):.0f} % |"


def _share_noticed(outcomes: Iterable[Outcome]) -> float:
    """The share of noticed mutants, without equal ones; a mutant that never ends is noticed too."""
    rest = [outcome for outcome in outcomes if outcome is not Outcome.EQUAL]
    return 1 - rest.count(Outcome.SURVIVED) / len(rest) if rest else 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("module", nargs="*", help="only these, such as bot/history.py (all of modules.toml)")
    parser.add_argument("--num", type=int, default=300, help="how many mutants (300)")
    parser.add_argument("--seed", type=int, default=1, help="another one takes other mutants (1)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time (2)")
    options = parser.parse_args(arguments)
    paths = options.module or list(own_tests())
    if unknown := set(paths) - set(own_tests()):
        parser.error(f"not in tests/mutants/modules.toml: {', '.join(sorted(unknown))}")

    faults = sample(paths, options.num, options.seed)
    trial.warm_up(paths)
    limits = _limits(paths, options.jobs)
    known = equal_faults()
    equal = [fault for fault in faults if fault.key in known]
    outcomes = _try_all([fault for fault in faults if fault.key not in known], limits, options.jobs)
    outcomes |= dict.fromkeys(equal, Outcome.EQUAL)
    outcomes = {fault: outcomes[fault] for fault in faults}
    print(f"\n{_table(outcomes)}\n\nSeed {options.seed}, {len(faults)} mutants.")
    for fault, outcome in outcomes.items():
        if outcome is Outcome.SURVIVED:
            print(f"\n{fault.diff}")
    return 0 if _share_noticed(outcomes.values()) >= _ENOUGH_KILLED else 1


if __name__ == "__main__":
    sys.exit(main())
