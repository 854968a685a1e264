"""Checks the size of a picture's file, with the same words on all platforms."""

from __future__ import annotations

from adapters.base import AttachmentError


def check_size(num_bytes: int | None, max_bytes: int, *, is_all: bool = True) -> None:
    """Raise AttachmentError if `num_bytes` is more than `max_bytes`. `num_bytes` None: unknown. Not `is_all`: more bytes follow."""
    if num_bytes is None or num_bytes <= max_bytes:
        return
    size, most = format_size(num_bytes), format_size(max_bytes)
    if not is_all or size == most:
        size = f"more than {most}"
    raise AttachmentError(f"it has {size}, and I take at most {most}")


def format_size(num_bytes: int) -> str:
    """The size for people, such as 12 kB or 3.4 MB (decimal units)."""
    if num_bytes < 10**6:
        return f"{max(1, round(num_bytes / 1000))} kB"
    return f"{num_bytes / 10**6:.1f}".removesuffix(".0") + " MB"
