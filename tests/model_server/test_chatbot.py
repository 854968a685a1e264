from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_server import LLaVAChatBot
from model_server.checkpoints.loading import Checkpoint, load_checkpoint
from model_server.errors import ImageError, ModelLoadError
from model_server.prompt import SYSTEM
from model_server.types import Image


@pytest.fixture(scope="module")
def bot(random_llava: Path) -> Iterator[LLaVAChatBot]:
    with LLaVAChatBot(str(random_llava), load_in_8_bit=False) as bot:
        yield bot


@pytest.fixture
def red(tmp_path: Path, image: Callable[..., Image]) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(image("red").data)
    return path


def test_three_turns(bot: LLaVAChatBot, red: Path) -> None:
    answers = [bot.start_new_chat(str(red), "describe the picture", do_sample=False, max_new_tokens=7)]
    answers += [bot.continue_chat(question, do_sample=False, max_new_tokens=7) for question in ("how many?", "why?")]
    questions = ["<image>\ndescribe the picture", "how many?", "why?"]
    turns = "".join(f"USER: {q} ASSISTANT: {a}</s>" for q, a in zip(questions, answers, strict=True))
    text = bot.get_conv_text()
    assert text == f"{SYSTEM} {turns}"
    assert text.count(SYSTEM) == 1
    assert text.count("</s>") == 3 + "".join(answers).count("</s>") == 3
    assert bot.start_new_chat(red, "describe the picture", do_sample=False, max_new_tokens=7) == answers[0]
    assert bot.get_conv_text().count("USER: ") == 1


def test_what_it_is_told_before_a_chat(bot: LLaVAChatBot, red: Path) -> None:
    plain = bot.start_new_chat(red, "how many?", do_sample=False, max_new_tokens=7)
    told = bot.start_new_chat(red, "how many?", do_sample=False, max_new_tokens=7, system="You are a pirate.")
    bot.continue_chat("why?", do_sample=False, max_new_tokens=7)
    assert bot.get_conv_text().startswith("You are a pirate. USER: <image>\nhow many? ASSISTANT:")
    assert SYSTEM not in bot.get_conv_text()
    assert told != plain
    assert bot.start_new_chat(red, "how many?", do_sample=False, max_new_tokens=7) == plain  # said of one chat


def test_sampling_arguments(bot: LLaVAChatBot, red: Path) -> None:
    greedy = bot.start_new_chat(red, "how many?", do_sample=False, max_new_tokens=6)
    assert bot.start_new_chat(red, "how many?", temperature=2.0, top_k=1, max_new_tokens=6, use_cache=False) == greedy
    hot = {bot.start_new_chat(red, "how many?", temperature=5.0, max_new_tokens=6) for _ in range(5)}
    assert len(hot) > 1
    with pytest.raises(TypeError, match="num_beams"):
        bot.start_new_chat(red, "how many?", num_beams=3)


def test_there_must_be_a_chat(random_llava: Path, red: Path) -> None:
    with LLaVAChatBot(str(random_llava), load_in_8_bit=False) as bot:
        with pytest.raises(RuntimeError, match="start_new_chat"):
            bot.continue_chat("why?")
        with pytest.raises(RuntimeError, match="start_new_chat"):
            bot.get_conv_text()
        with pytest.raises(RuntimeError, match="start_new_chat"):
            bot.generate_answer()
    with pytest.raises(RuntimeError, match="closed"):
        bot.start_new_chat(red, "why?")
    bot.close()


def test_bad_pictures(bot: LLaVAChatBot, tmp_path: Path, red: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ImageError, match=r"notes\.txt"):
        bot.start_new_chat(tmp_path / "notes.txt", "what?")
    with pytest.raises(ImageError, match="no such file"):
        bot.setup_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="private or local"):
        bot.setup_image("http://127.0.0.1:9/cat.png")


def test_a_failed_question_leaves_the_chat_as_it_was(bot: LLaVAChatBot, red: Path) -> None:
    bot.start_new_chat(red, "how many?", do_sample=False, max_new_tokens=4)
    before = bot.get_conv_text()
    with pytest.raises(ValueError, match="max_new_tokens"):
        bot.continue_chat("why?", max_new_tokens=0)
    with pytest.raises(Exception, match="too long"):
        bot.continue_chat("why? " * 1000)
    assert bot.get_conv_text() == before


async def test_where_an_event_loop_runs_already(bot: LLaVAChatBot, red: Path) -> None:
    assert isinstance(bot.start_new_chat(red, "how many?", max_new_tokens=4), str)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelLoadError):
        LLaVAChatBot("/nowhere")


@pytest.mark.whole_program
def test_a_script_that_forgets_to_close_still_ends(random_llava: Path, red: Path) -> None:
    code = (
        "from model_server import LLaVAChatBot\n"
        f"bot = LLaVAChatBot({str(random_llava)!r})\n"
        f"print(len(bot.start_new_chat({str(red)!r}, 'how many?', max_new_tokens=5)) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"
    assert "Traceback" not in done.stderr


def test_without_the_package_for_8_bit_a_first_try_is_in_full_precision(
    random_llava: Path, red: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("model_server.checkpoints.quantization.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with LLaVAChatBot(str(random_llava)) as bot:
        assert bot.start_new_chat(red, "how many?", max_new_tokens=5)
    assert [record.getMessage() for record in caplog.records if record.name == "model_server.chatbot"] == [
        "8 bit needs the extra `quantization`: the model is used in full precision."
    ]
    caplog.clear()
    with pytest.raises(ModelLoadError, match="extra `quantization`"):
        LLaVAChatBot(str(random_llava), load_in_4bit=True)
    assert caplog.records == []


def test_closing_frees_the_model_at_once(random_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def load(*args: Any, **options: Any) -> Checkpoint:
        checkpoint = load_checkpoint(*args, **options)
        made.append(weakref.ref(checkpoint.model))
        return checkpoint

    monkeypatch.setattr("model_server.chatbot.load_checkpoint", load)
    gc.disable()  # what a collection would do at some time or other does not count
    try:
        with LLaVAChatBot(str(random_llava), load_in_8_bit=False) as bot:
            bot.load_models(str(random_llava), load_in_8_bit=False)
            assert [model() is None for model in made] == [True, False]
        assert made[1]() is None
    finally:
        gc.enable()
