"""The model server's errors, each with a sentence that may be shown to the person who asked.

ModelServerError
|-- ImageError            a picture (or a link to one) cannot be used; names it and the reason
|-- RequestRefused        nothing was started
|   |-- QueueFull
|   |-- PromptTooLong
|   `-- ShuttingDown
|-- ModelLoadError        the model cannot be loaded; for the person who runs the program
`-- EngineFailed          the engine broke while the request waited or ran
"""

from __future__ import annotations


class ModelServerError(Exception):
    """The message is one or two plain sentences without secrets, paths or traceback."""


class ImageError(ModelServerError):
    """A picture that cannot be used: `name` as its owner knows it, `reason` as the rest of a sentence, with its full stop."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"I could not use {name}: {reason}")
        self.name = name
        self.reason = reason


class RequestRefused(ModelServerError):
    """The request was refused before it reached the engine."""


class QueueFull(RequestRefused):
    """Too many requests wait already."""


class PromptTooLong(RequestRefused):
    """The prompt does not fit. The numbers are 0 when only a remote server knows them."""

    def __init__(self, num_tokens: int = 0, max_tokens: int = 0) -> None:
        size = f": {num_tokens} tokens, and I can take {max_tokens}" if num_tokens else ""
        super().__init__(f"This is too long for me{size}. Please ask in fewer words.")
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens


class ShuttingDown(RequestRefused):
    """The program is about to end."""


class ModelLoadError(ModelServerError):
    """The model cannot be loaded; the sentence says what to do."""


class EngineFailed(ModelServerError):
    """The engine broke while the request waited or ran."""
