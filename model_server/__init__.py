"""Everything that touches the model. Knows nothing of platforms, stored chats, or the environment.

Importing this package, `model_server.types` or `model_server.errors` loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_server.chatbot import LLaVAChatBot

__all__ = ["LLaVAChatBot"]


def __getattr__(name: str) -> Any:
    if name == "LLaVAChatBot":
        from model_server.chatbot import LLaVAChatBot

        return LLaVAChatBot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
