"""Finds the files of a checkpoint: in a folder, or on the Hugging Face hub at a pinned revision.

Downloads are huggingface_hub's: into its cache, with a progress bar on a terminal, resumed after a lost connection or a restart,
and none when HF_HUB_OFFLINE is set. Code in a checkpoint is never run. Every error becomes a `ModelLoadError` with a plain
sentence: use `explained` around all work on a checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from httpx2 import TransportError
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from model_server.errors import ModelLoadError

log = logging.getLogger(__name__)

# What the libraries raise for files that are missing, damaged, of another kind, or that cannot be downloaded.
_BAD_FILES = (
    TransportError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
)


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint. `path` is a folder or a hub id; `revision` is a branch, tag or commit, for the hub only."""

    path: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        return Path(self.path).is_dir()

    @property
    def name(self) -> str:
        return Path(self.path).resolve().name if self.is_folder else self.path

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for any `from_pretrained(path, ...)`."""
        return {"local_files_only": True} if self.is_folder else {"revision": self.revision}

    def file(self, name: str, *, is_needed: bool = False) -> Path | None:
        """The path of one file, downloaded if needed. If there is none of this name: None, or an error when `is_needed`."""
        if self.is_folder:
            path = Path(self.path) / name
            if path.is_file():
                return path
            if is_needed:
                raise ModelLoadError(f"{self.path} is not a complete checkpoint: there is no file {name} in it.")
            return None
        try:
            return Path(hf_hub_download(self.path, name, revision=self.revision))
        except LocalEntryNotFoundError:  # no connection, or offline mode
            if is_needed:
                raise
            return None
        except EntryNotFoundError:
            if is_needed:
                raise ModelLoadError(f"{self.path} is not a complete checkpoint: there is no file {name} in it.") from None
            return None

    def settings(self, name: str = "config.json", *, is_needed: bool = False) -> dict[str, Any] | None:
        """The content of a JSON file."""
        file = self.file(name, is_needed=is_needed)
        if file is None:
            return None
        try:
            settings = json.loads(file.read_text("utf-8"))
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ModelLoadError(f"{self.path} cannot be loaded: its {name} is damaged.")
        return settings

    def beside(self, reference: str) -> Source:
        """Another checkpoint that this one refers to: a folder (relative to this one or to its parent), or a hub id."""
        if self.is_folder:
            here = Path(self.path)
            for folder in (here / reference, here.parent / reference):
                if folder.is_dir():
                    return Source(str(folder))
        return Source(reference)


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Turn what the libraries raise about `model` into a `ModelLoadError` for the person who runs the program."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # no progress bars in a log
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{model} does not fit into this GPU's memory. Quantization (8bit or 4bit) makes it smaller."
        ) from error
    except MemoryError as error:
        raise ModelLoadError(f"{model} does not fit into this machine's memory.") from error
    except ImportError as error:
        raise ModelLoadError(f"{model} cannot be loaded, because a package is missing: {_first_line(error)}") from error
    except _BAD_FILES as error:
        log.debug("Loading failed.", exc_info=True)
        raise ModelLoadError(_sentence(model, error)) from error


def _sentence(model: str, error: BaseException) -> str:
    for cause in _causes(error):
        match cause:
            case GatedRepoError():
                return (
                    f"{model} is given only to people who have accepted its terms. Please accept them on its page on the hub, "
                    "and log in here with `hf auth login`."
                )
            case RevisionNotFoundError():
                return f"{model} has no such revision on the hub. Please look at the spelling of the branch, tag or commit."
            case RepositoryNotFoundError():
                return f"There is no {model} on the hub, or it is private: then log in here with `hf auth login`."
            case HFValidationError():
                return f"{model} cannot be found: it is no folder on this machine, and it cannot be a name on the hub."
            case OfflineModeIsEnabled() | LocalEntryNotFoundError() if constants.is_offline_mode():
                return (
                    f"{model} cannot be loaded: it is not (or not wholly) on this machine, and HF_HUB_OFFLINE forbids downloading. "
                    "Start once without HF_HUB_OFFLINE to download it."
                )
            case LocalEntryNotFoundError() | TransportError() | HfHubHTTPError():
                return (
                    f"{model} could not be downloaded, because the connection to the hub failed. "
                    "Please start again: the files that have arrived are kept."
                )
            case OSError(errno=errno.ENOSPC):
                return f"{model} could not be downloaded, because the disk is full."
            case pickle.UnpicklingError():
                return (
                    f"{model} is refused: its pickled files hold more than weights, and could run code on this machine. "
                    "A copy of it in the safetensors format is safe."
                )
    return f"{model} cannot be loaded as a model: {_first_line(error).rstrip('.')}."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
