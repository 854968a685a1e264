"""Parameters that we do not have. Nothing is dropped in silence: whatever would change the answer is refused by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from model_server.serve.refusal import BadRequest

# Names, each with the values that mean "off", or with such a table for the fields of an object. Any other value is refused.
Unsupported = Mapping[str, "tuple[object, ...] | Unsupported"]
_UNSET: tuple[object, ...] = (None, [], {})
_MAX_NAME_LENGTH = 64

# They concern OpenAI's own service, or the tools that we refuse.
OF_THE_SERVICE = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "max_tool_calls",
    }
)

# Of OpenAI's chat completions, then of other servers' (vLLM, llama.cpp), which clients send with their default values.
UNSUPPORTED_IN_COMPLETIONS: Unsupported = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "moderation": (),
    "best_of": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
}
UNSUPPORTED_IN_RESPONSES: Unsupported = {
    "background": (False,),
    "conversation": (),
    "include": (["reasoning.encrypted_content"],),  # there is no reasoning to include
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "reasoning": {"effort": ("none",), "summary": (), "generate_summary": ()},
    "text": {"format": ({"type": "text"},), "verbosity": ("medium",)},
    "tools": (),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
UNSUPPORTED_IN_STREAM_OPTIONS: Unsupported = {"include_obfuscation": (False,), "continuous_usage_stats": (False,)}


def refuse_unsupported(
    given: Mapping[str, object] | None, unsupported: Unsupported, ignored: Collection[str] = (), param: str | None = None
) -> None:
    """Raises `BadRequest` for the first of the given fields that would have an effect elsewhere. `param` is their owner's name."""
    for name, value in (given or {}).items():
        full_name = f"{param}.{name[:_MAX_NAME_LENGTH]}" if param else name[:_MAX_NAME_LENGTH]
        off_values = unsupported.get(name, ())
        if name in ignored or value in _UNSET:
            continue
        if isinstance(off_values, Mapping) and isinstance(value, Mapping):
            refuse_unsupported(value, off_values, param=full_name)
        elif isinstance(off_values, Mapping) or value not in off_values:
            code = "unsupported_parameter" if name in unsupported else "unknown_parameter"
            raise BadRequest(f"`{full_name}` is not supported here.", full_name, code)
