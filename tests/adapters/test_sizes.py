"""Whether a file is too large, and the one sentence about it."""

from __future__ import annotations

import pytest

from adapters.base import AttachmentError
from adapters.sizes import check_size


@pytest.mark.parametrize("size", [None, 0, 20_000_000])
def test_what_fits_or_is_unknown_passes(size: int | None) -> None:
    check_size(size, 20_000_000)


@pytest.mark.parametrize(
    ("size", "is_all", "sentence"),
    [
        (104_000_000, True, "it has 104 MB, and I take at most 20 MB"),
        (20_000_001, True, "it has more than 20 MB, and I take at most 20 MB"),
        (20_060_000, False, "it has more than 20 MB, and I take at most 20 MB"),
    ],
)
def test_what_is_too_large_is_told_with_both_sizes(size: int, is_all: bool, sentence: str) -> None:
    with pytest.raises(AttachmentError) as caught:
        check_size(size, 20_000_000, is_all=is_all)
    assert str(caught.value) == sentence
