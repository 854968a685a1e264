"""The messages of a request, in all shapes that clients send, converted into our own.

* System (or developer) messages at the beginning are the chat's system text; later ones go before the next question.
* Consecutive messages of a user are one question, those of an assistant one answer. An answer at the very beginning follows an
  empty question.
* Names matter only where several people ask: then each question begins with its author's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from model_server.serve.image_url import FetchImage, read_image_url
from model_server.serve.parameters import Unsupported, refuse_unsupported
from model_server.serve.refusal import BadRequest
from model_server.types import Image, Message, Role

# What belongs to other programs, and would not change the prompt.
_PART_NOTES = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint", "cache_control"})
_IMAGE_NOTES = frozenset({"format", "media_type"})
_MESSAGE_NOTES = frozenset(
    {
        "id",
        "status",
        "phase",
        "annotations",
        "reasoning",  # of an earlier answer: the model is told what was said, not what was thought
        "reasoning_content",
        "prompt_cache_breakpoint",
        "cache_control",
        "provider_specific_fields",
    }
)
_UNSUPPORTED_IN_MESSAGES: Unsupported = {"tool_calls": (), "tool_call_id": (), "function_call": (), "audio": ()}
_UNSUPPORTED_IN_PARTS: Unsupported = {"file_id": ()}
# Taken, and without effect: the model looks at every picture in its own resolution.
_Detail = Literal["auto", "low", "high", "original"] | None


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")  # `check_notes` looks at what is left


class _ImageUrl(_Open):
    url: str
    detail: _Detail = None


class _TextPart(_Open):
    type: Literal["text", "input_text", "output_text"]
    text: str


class _RefusalPart(_Open):
    type: Literal["refusal"]
    text: str = Field(alias="refusal")


def _as_image_url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class _ImagePart(_Open):
    type: Literal["image_url", "input_image"]
    image_url: Annotated[_ImageUrl, BeforeValidator(_as_image_url)]
    detail: _Detail = None


def _as_parts(content: object) -> object:
    if content is None:
        return []
    parts = content if isinstance(content, list) else [content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


_Part = Annotated[_TextPart | _RefusalPart | _ImagePart, Field(discriminator="type")]


class ChatMessage(_Open):
    """One message of a request, of chat completions or of responses."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[_Part], BeforeValidator(_as_parts)] = Field(default_factory=list)
    name: str | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """What is said, in as many lines as there are parts."""
        return "\n".join(part.text for part in self.content if not isinstance(part, _ImagePart)) or self.refusal or ""

    @property
    def image_urls(self) -> list[str]:
        """The pictures' addresses, in order."""
        return [part.image_url.url for part in self.content if isinstance(part, _ImagePart)]

    def check_notes(self, param: str) -> None:
        """Raises `BadRequest` for a field that would change the prompt if we knew it. `param` is the message's own name."""
        refuse_unsupported(self.model_extra, _UNSUPPORTED_IN_MESSAGES, _MESSAGE_NOTES, param)
        for number, part in enumerate(self.content):
            refuse_unsupported(part.model_extra, _UNSUPPORTED_IN_PARTS, _PART_NOTES, f"{param}.content.{number}")
            if isinstance(part, _ImagePart):
                refuse_unsupported(part.image_url.model_extra, {}, _IMAGE_NOTES, f"{param}.content.{number}.image_url")
        if self.role == "assistant" and self.image_urls:
            sentence = "A picture in an assistant's message is not supported here. Put it into a user's message."
            raise BadRequest(sentence, f"{param}.content", "unsupported_parameter")


async def read_messages(
    chat: Sequence[ChatMessage], fetch: FetchImage, max_image_bytes: int, max_images: int, param: str = "messages"
) -> tuple[tuple[Message, ...], str | None]:
    """The chat, with its pictures fetched and checked, and its system text or None. `param` is the request's name for the chat.

    Raises `BadRequest` or `ImageError`.
    """
    num_images = sum(len(message.image_urls) for message in chat)
    if num_images > max_images:
        raise BadRequest(f"This model can look at {max_images} picture(s) in a chat, not {num_images}.", param)
    image_names = (f"picture {number}" for number in range(1, num_images + 1))
    is_crowd = len({message.name for message in chat if message.role == "user" and message.name}) > 1
    turns: list[tuple[Role, list[str], list[Image]]] = []
    system: list[str] = []
    texts: list[str] = []
    images: list[Image] = []
    has_question = False
    for message in chat:
        if message.role == "assistant":
            if has_question or texts or images or not turns:
                turns += [(Role.USER, texts, images), (Role.ASSISTANT, [], [])]
                texts, images, has_question = [], [], False
            turns[-1][1].extend([message.text] if message.text else [])
            continue
        has_question = has_question or message.role == "user"
        is_first = not turns and not has_question
        text = f"{message.name}: {message.text}" if is_crowd and message.role == "user" and message.name else message.text
        (system if is_first else texts).extend([text] if text else [])
        for url in message.image_urls:
            images.append(await read_image_url(url, next(image_names), fetch, max_image_bytes))
    if not has_question:
        raise BadRequest("The last message must be a user's: an assistant's cannot be continued here.", param)
    turns.append((Role.USER, texts, images))
    messages = tuple(Message(role, "\n\n".join(said), tuple(shown)) for role, said, shown in turns)
    return messages, "\n\n".join(system) or None


# In place of pydantic's words, which are for programmers in Python: by its names of problems, then by how these begin.
_SENTENCES = {
    "missing": "This field is required",
    "too_short": "This list must not be empty",
    "int_parsing_size": "This number is too large",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
}


def explain(location: Sequence[int | str], problem: dict[str, Any]) -> tuple[str, str]:
    """A parameter's name and a sentence for what pydantic found there. Neither quotes what was sent."""
    path = list(location)
    if len(path) > 4 and path[2] == "content":
        del path[4]  # pydantic's name of the kind of part
    param = ".".join(map(str, path))
    if problem["type"] == "union_tag_invalid":
        return param, "Parts of this type are not supported here; text and image_url are."
    if problem["type"] == "union_tag_not_found":
        return param, f"{param} has no type: it is text or image_url."
    if len(path) == 3 and path[2] == "role" and problem["type"] == "literal_error":
        return param, "Messages with this role are not supported here; system, developer, user and assistant are."
    if len(path) == 3 and path[2] == "type" and problem["type"] == "literal_error":
        return param, "Items of this type are not supported here; messages are."
    if problem["type"] in ("model_type", "model_attributes_type"):  # pydantic's words would be about our classes
        return param, f"{param}: Input should be a JSON object."
    kind = _KINDS.get(problem["type"].partition("_")[0])
    sentence = _SENTENCES.get(problem["type"]) or (f"Input should be {kind}" if kind else problem["msg"])
    return param, f"{param}: {sentence}."
