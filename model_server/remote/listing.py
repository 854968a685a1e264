"""A model server's list of its models, and which of them answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# vLLM and SGLang; OpenRouter and Together; Groq; Mistral. OpenAI's own protocol has no field for it.
_CONTEXT_LENGTHS = ("max_model_len", "context_length", "context_window", "max_context_length")
_KINDS = ("type", "task", "mode", "pipeline_tag")  # where services say what a model is for
_OTHER_NAME = re.compile(r"embed|rerank|whisper|\btts\b|moderation|diffusion|dall-?e\b", re.IGNORECASE)
_OTHER_KIND = re.compile(r"embed|rank|image|audio|video|speech|transcri|moderation|classif|score|reward", re.IGNORECASE)
_ANSWERS = re.compile(r"chat|completion|\bgenerate\b|text[-_]generation|text-to-text|llm|vlm|language", re.IGNORECASE)
_SEES = re.compile(r"vision|multimodal|\bvlm\b|image-text-to-text", re.IGNORECASE)
_MAX_NAME_LENGTH = 100  # as it is shown


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model in the list. `context_length`, in tokens, and `can_answer` are None where the list does not tell; `can_see`: it says
    that the model takes pictures."""

    name: str
    context_length: int | None = None
    can_answer: bool | None = None
    can_see: bool = False


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model to ask for, and the names of the other ones."""

    name: str
    context_length: int | None
    others: tuple[str, ...] = ()

    @property
    def shown_name(self) -> str:
        """The name for a log or a terminal."""
        return printable(self.name)

    @property
    def shown_others(self) -> str:
        """The first of the other names, for a log or a terminal."""
        more = f" and {len(self.others) - 5} more" if len(self.others) > 5 else ""
        return ", ".join(printable(name) for name in self.others[:5]) + more


def printable(name: str) -> str:
    """A server's word, for a log or a terminal."""
    return "".join(character if character.isprintable() else "?" for character in name[:_MAX_NAME_LENGTH])


def read_models(body: bytes) -> list[ListedModel]:
    """Parse the answer of /models. Raises ValueError if it is no list of models."""
    try:
        answer = json.loads(body)
    except RecursionError:
        raise ValueError("not a list of models") from None
    entries = answer
    if isinstance(answer, dict):
        if "data" not in answer and "models" not in answer and answer.get("object") != "list":
            raise ValueError("not a list of models")
        entries = answer.get("data") or answer.get("models") or []
    if not isinstance(entries, list):
        raise ValueError("not a list of models")
    models = [model for model in map(_model, entries) if model is not None]
    if entries and not models:
        raise ValueError("not a list of models")
    return models


def choose(models: Sequence[ListedModel], name: str | None) -> ServedModel | None:
    """The model called `name`; without a name the first that can look at pictures, else the first that can answer, as far as the
    list tells. None if there is none."""
    if name is not None:
        return next((ServedModel(model.name, model.context_length) for model in models if model.name == name), None)
    if not models:
        return None
    best = min(models, key=lambda model: (model.can_answer is False, not model.can_see))
    return ServedModel(best.name, best.context_length, tuple(model.name for model in models if model.name != best.name))


def _model(entry: object) -> ListedModel | None:
    if isinstance(entry, str):
        entry = {"id": entry}
    if not isinstance(entry, dict):
        return None
    name = next((entry[field] for field in ("id", "name", "model") if isinstance(entry.get(field), str) and entry[field]), None)
    if name is None:
        return None
    meta = entry.get("meta")  # llama.cpp
    lengths = [*(entry.get(field) for field in _CONTEXT_LENGTHS), meta.get("n_ctx") if isinstance(meta, dict) else None]
    length = next((length for length in map(_positive, lengths) if length), None)
    kinds = " ".join(entry[field] for field in _KINDS if isinstance(entry.get(field), str))
    able, unable = _capabilities(entry)
    can_answer = False if _OTHER_NAME.search(name) else None
    if _ANSWERS.search(f"{kinds} {able}"):
        can_answer = True
    elif _OTHER_KIND.search(f"{kinds} {able}") or _ANSWERS.search(unable):
        can_answer = False
    return ListedModel(name, length, can_answer, bool(_SEES.search(f"{kinds} {able}")) or _takes_images(entry))


def _capabilities(entry: dict[str, Any]) -> tuple[str, str]:
    """What a model can do and what it cannot: in a list of words (llama.cpp, Ollama), or an object of booleans (Mistral)."""
    match entry.get("capabilities"):
        case list() as words:
            return " ".join(word for word in words if isinstance(word, str)), ""
        case dict() as words:
            return " ".join(word for word in words if words[word] is True), " ".join(word for word in words if words[word] is False)
    return "", ""


def _takes_images(entry: dict[str, Any]) -> bool:
    """Whether it is said as OpenRouter says it."""
    architecture = entry.get("architecture")
    modalities = architecture.get("input_modalities") if isinstance(architecture, dict) else None
    return isinstance(modalities, list) and "image" in modalities


def _positive(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None
