"""Asks `threadsight serve` a picture question with ten clients, as their users have them, and prints a table: `make clients`.

Each client's newest version is installed into an environment of its own under .work/clients, because they disagree about the
versions of others. Then its program (`client_programs`) asks the bundled model: without a picture, about one, about it in pieces,
and in the next turn of that chat. Names of clients as arguments try these alone. Exits with 1 when one gets anything wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.images import red_circle
from tests.program import PROGRAM, ROOT, process

FOLDER = ROOT / ".work" / "clients"
PROGRAMS = Path(__file__).parent / "client_programs"
SERVED = r"(?<=Threadsight serves tiny at )http://127\.0\.0\.1:\d+/v1(?=\n)"
INSTALL_SECONDS = 900
ASK_SECONDS = 180


@dataclass(frozen=True)
class Client:
    """A client's program and the packages that it needs; the first one's version is shown."""

    name: str
    program: str
    packages: tuple[str, ...]

    @property
    def is_javascript(self) -> bool:
        return self.program.endswith(".mjs")


CLIENTS = (
    Client("openai (Python)", "openai_python.py", ("openai",)),
    Client("openai (Python), responses", "openai_responses.py", ("openai",)),
    Client("openai (JavaScript)", "openai_javascript.mjs", ("openai",)),
    Client("litellm", "litellm_python.py", ("litellm",)),
    Client("langchain-openai", "langchain_python.py", ("langchain-openai",)),
    Client("llm", "llm_python.py", ("llm",)),
    Client("instructor", "instructor_python.py", ("instructor",)),
    Client("pydantic-ai", "pydantic_ai_python.py", ("pydantic-ai-slim[openai]",)),
    Client("openai-agents, responses", "agents_python.py", ("openai-agents",)),
    Client("ai with @ai-sdk/openai", "ai_openai.mjs", ("@ai-sdk/openai", "ai")),
    Client("ai with openai-compatible", "ai_openai_compatible.mjs", ("@ai-sdk/openai-compatible", "ai")),
)


class Failed(Exception):
    """One sentence for the table."""


async def run(*command: str | Path, seconds: float, cwd: Path | None = None) -> str:
    """Run a program and give what it printed. Raises `Failed` with its last line of errors."""
    # Without the settings of the program's own installation, above all its constraints.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_CONSTRAINT", "PIP_BUILD_", "PYTHON"))
    }
    running = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds):
            printed, errors = await running.communicate()
    except TimeoutError:
        raise Failed(f"not done after {seconds:.0f} seconds") from None
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode:
        told = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
        mistakes = [line for line in told if "Error" in line]  # JavaScript ends with its own version
        raise Failed((mistakes or told or [f"ended with {running.returncode}"])[-1].strip())
    return printed.decode()


async def install(client: Client) -> tuple[Path, Path, str]:
    """Install a client. Gives the interpreter, the program beside its packages, and the version."""
    home = FOLDER / client.program.partition(".")[0]
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    if client.is_javascript:
        if not (shutil.which("node") and shutil.which("npm")):
            raise Failed("not tried: node or npm is not here")
        for program in PROGRAMS.glob("*.mjs"):  # Node looks for packages beside the program
            shutil.copy(program, home)
        await run("npm", "install", "--no-audit", "--no-fund", "--prefix", home, *client.packages, seconds=INSTALL_SECONDS)
        described = json.loads((home / "node_modules" / client.packages[0] / "package.json").read_text("utf-8"))
        return Path("node"), home / client.program, described["version"]
    await run(sys.executable, "-m", "venv", home, seconds=INSTALL_SECONDS)
    python = home / "bin" / "python"
    await run(python, "-m", "pip", "install", "--quiet", *client.packages, seconds=INSTALL_SECONDS)
    package = client.packages[0].partition("[")[0]
    version = await run(python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))", seconds=ASK_SECONDS)
    return python, PROGRAMS / client.program, version.strip()


def judge(printed: str) -> list[str]:
    """Whether each of the four answers is right: one word for each."""
    got = json.loads(printed.splitlines()[-1])
    pieces = [piece for piece in got["pieces"] if piece]
    return [
        "yes" if got["text"].strip() else "nothing",
        "yes" if "red" in got["picture"] else f"no: {got['picture']!r}",
        "yes" if "red" in "".join(pieces) and len(pieces) > 1 else f"no: {pieces!r}",
        "yes" if "circle" in got["second_turn"] else f"no: {got['second_turn']!r}",
    ]


async def try_client(client: Client, url: str, picture: Path) -> list[str]:
    """One line of the table."""
    version = "?"
    try:
        interpreter, program, version = await install(client)
        printed = await run(interpreter, program, url, picture, seconds=ASK_SECONDS, cwd=picture.parent)
        return [client.name, version, *judge(printed)]
    except Failed as error:
        return [client.name, version, str(error)]


async def ask(clients: Sequence[Client], folder: Path) -> list[list[str]]:
    """The table's lines. The server's data and the picture are in the folder."""
    picture = draw(folder / "circle.png")
    settings = {"THREADSIGHT_SERVE_PORT": "0", "THREADSIGHT_MODEL": "tiny"}
    lines = []
    async with process(*PROGRAM, "serve", folder=folder, ready=SERVED, **settings) as (_, url):
        for client in clients:
            print(f"{client.name} …", file=sys.stderr, flush=True)
            lines.append(await try_client(client, url, picture))
    return lines


def draw(path: Path) -> Path:
    """Write the picture."""
    path.write_bytes(red_circle())
    return path


def main(names: Sequence[str]) -> int:
    """Try the clients whose names begin so, or all. Returns the exit status."""
    clients = [client for client in CLIENTS if not names or client.name.startswith(tuple(names))]
    with tempfile.TemporaryDirectory() as folder:
        lines = asyncio.run(ask(clients, Path(folder)))
    head = ["client", "version", "text", "picture", "in pieces", "second turn"]
    widths = [max(len(line[column]) for line in [head, *lines] if len(line) > column + 1) for column in range(len(head) - 1)]
    for line in [head, *lines]:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), *line[len(widths) :]]).rstrip())
    return 0 if lines and all(line[2:] == ["yes"] * 4 for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
