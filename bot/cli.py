"""The command line.

Exit status: 0 for success, 1 for a failure, 2 for a wrong call or wrong settings. Errors are sentences on standard error; standard
output has only answers and the page's address.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Collection, Sequence

from bot import platforms
from bot.config import Settings, SettingsError, hand_on_proxies, load_settings
from bot.log_format import LogFormat
from bot.log_repeats import RepeatFilter
from model_server.bench import command as bench

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
    except SettingsError as error:
        for problem in error.problems:
            print(f"threadsight: {problem}", file=sys.stderr)
        return 2
    hand_on_proxies(settings)
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(LogFormat())
    to_stderr.addFilter(RepeatFilter(to_stderr))
    logging.basicConfig(
        level=settings.log_level.upper() if options.command in ("run", "serve") else logging.WARNING,
        handlers=[to_stderr],
    )
    for name in ("alembic", "sqlalchemy", "aiosqlite", "httpx"):  # their logs are for their developers
        logging.getLogger(name).setLevel(logging.WARNING)
    # Before the model is loaded Ctrl-C may end the program at any point; later `bot.app` handles signals.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if options.command == "run":
            return asyncio.run(_run(settings))
        if options.command == "bench":
            return asyncio.run(_bench(settings, options))
        if options.command == "doctor":
            return asyncio.run(_doctor(settings))
        if options.command == "setup":
            return asyncio.run(_setup(settings, options))
        if options.command == "serve":
            return asyncio.run(_serve(settings))
        return asyncio.run(_chat(settings, options.image, options.question))
    except KeyboardInterrupt:
        return 130  # a shell's status for Ctrl-C
    except BrokenPipeError:  # as with `threadsight doctor | head`
        _fall_silent()
        return 1
    except BaseExceptionGroup as group:
        return _fail(_first(group))
    except Exception as error:
        return _fail(error)


async def _run(settings: Settings) -> int:
    from bot import app
    from bot.doctor import check_proxies

    for remark in (*settings.renamed, *settings.remarks):
        print(f"threadsight: {remark}", file=sys.stderr)
    async for finding in check_proxies(settings.proxies):
        print(f"threadsight: {finding.sentence}", file=sys.stderr)
    print(_what_is_opened(settings), file=sys.stderr, flush=True)
    await app.run(settings, _say)
    return 0


async def _serve(settings: Settings) -> int:
    from bot import app

    print(f"Loading the model {settings.model} …", file=sys.stderr, flush=True)
    await app.serve(settings, _say)
    return 0


async def _doctor(settings: Settings) -> int:
    from bot.doctor import examine

    is_well = True
    async for finding in examine(settings):
        print(f"{'ok' if finding.is_good else 'PROBLEM':8}{finding.what}: {finding.sentence}", flush=True)
        is_well &= finding.is_good
    print("Threadsight can be started." if is_well else "Please see to the problems above.", flush=True)
    return 0 if is_well else 1


async def _setup(settings: Settings, options: argparse.Namespace) -> int:
    from bot.app import host_of

    flags = frozenset(name for name in _setup_flags(options.platform) if getattr(options, name))
    print(await platforms.setup_steps(settings.platforms, host_of(settings), options.platform, flags), flush=True)
    return 0


async def _bench(settings: Settings, options: argparse.Namespace) -> int:
    is_ours = options.against is not None and options.against == settings.engine_url  # the key goes to no other server
    key = settings.engine_api_key.get_secret_value() if is_ours and settings.engine_api_key is not None else None
    proxy = settings.proxies.for_url(options.against) if options.against else None
    return await bench.run(
        options, model=settings.model, quantization=settings.quantization, against_api_key=key, against_proxy=proxy
    )


def _say(sentence: str) -> None:
    """Print for whoever reads it; the program goes on without a reader."""
    try:
        print(sentence, flush=True)
    except BrokenPipeError:
        _fall_silent()


def _fall_silent() -> None:
    """Nobody reads standard output any more: what is still written there goes nowhere, also when Python flushes it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _what_is_opened(settings: Settings) -> str:
    if settings.engine_url is not None:
        return f"Asking the model server at {settings.engine_url} …"
    return f"Loading the model {settings.model} …"


async def _chat(settings: Settings, image: str, question: str | None) -> int:
    from adapters.terminal import TerminalAdapter, ask_once, image_problem, printable
    from bot import app

    if problem := image_problem(image):
        print(f"threadsight: {problem}", file=sys.stderr)
        return 2
    if sys.stderr.isatty():
        print(printable(_what_is_opened(settings)), file=sys.stderr, flush=True)
    async with app.passing_chats(settings) as chats:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)  # from here on there is something to clean up
        if question is None:
            await TerminalAdapter(image).run(chats)
            return 0
        return 0 if await ask_once(chats, image, question, sys.stdout, sys.stderr) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="threadsight", description="Chat about pictures with a LLaVA model on your own machine.")
    parser.add_argument("--version", action="version", version=f"threadsight {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="serve every adapter that has a token; with none, the local web page alone")
    commands.add_parser("serve", help="serve the model alone over HTTP, for OpenAI-compatible clients")
    bench.add_arguments(commands.add_parser("bench", help="measure throughput, latency and memory on this machine"))
    commands.add_parser("doctor", help="check settings, data, model, memory, tokens and permissions, and say what to do")
    setup = commands.add_parser("setup", help="how to bring the bot to a platform, step by step")
    names = setup.add_subparsers(dest="platform", required=True, metavar="PLATFORM")
    for platform in platforms.PLATFORMS:
        if platform.setup_steps is not None:
            of_platform = names.add_parser(platform.name, help=f"the steps for {platform.title}")
            for flag, meaning in platform.setup_flags.items():
                of_platform.add_argument(f"--{flag}", action="store_true", help=meaning)
    chat = commands.add_parser("chat", help="chat about a picture in the terminal")
    chat.add_argument("image", metavar="IMAGE", help="a picture's path or http(s) link")
    chat.add_argument("question", metavar="QUESTION", nargs="?", help="print only the answer to this, and exit")
    return parser


def _setup_flags(name: str) -> Collection[str]:
    return next(platform.setup_flags for platform in platforms.PLATFORMS if platform.name == name)


def _version() -> str:
    try:
        return importlib.metadata.version("threadsight")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _first(group: BaseExceptionGroup) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fail(error: BaseException) -> int:
    """Report why the program ends, and return the exit status. An error for people has a sentence; any other is logged."""
    from adapters.base import AdapterError
    from bot.database import StoreError
    from model_server.errors import ModelServerError

    if isinstance(error, (AdapterError, ModelServerError, StoreError)):
        print(f"threadsight: {error}", file=sys.stderr)
    else:
        log.error("The program ends because of an error that it does not know.", exc_info=error)
        print("threadsight: something unexpected went wrong; the details are in the log above.", file=sys.stderr)
    return 1
