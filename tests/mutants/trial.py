"""One trial: runs the tests of a module, with one fault in it, in a separate process.

Only the text that Python compiles is another one: nothing is written over the sources, whatever becomes of a trial.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType

import pytest
from hypothesis import Phase, settings

from tests.mutants.faults import ROOT

NOT_LOADED = 100  # exit code: the tests never imported the module
_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
_MAX_BYTES = 12 * 1024**3
_OURS = ("bot", "adapters", "model_server", "tests")


class _FaultyLoader(SourceFileLoader):
    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class FaultyFinder(MetaPathFinder):
    def __init__(self, name: str, path: str, text: str) -> None:
        self._name, self._loader = name, _FaultyLoader(name, path, text)

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_file_location(name, self._loader.path, loader=self._loader) if name == self._name else None


def warm_up(paths: Sequence[str]) -> None:
    """Import what the modules import, so that each trial, a fork, has torch and the like already loaded; but none of our
    modules."""
    for path in paths:
        importlib.import_module(_module_name(path))
    for name in [name for name in sys.modules if name.split(".")[0] in _OURS and not name.startswith("tests.mutants")]:
        del sys.modules[name]
    gc.freeze()  # so that trials do not garbage-collect the parent's objects


def run(path: str, text: str, tests: Sequence[str]) -> None:
    """Call it in a fork. Never returns; the exit code is pytest's: 0 means that the fault was not noticed."""
    os.setsid()  # so that the trial can be killed with its child processes
    os.chdir(ROOT)
    with open(os.devnull, "r+b") as nowhere:
        for stream in (0, 1, 2):
            os.dup2(nowhere.fileno(), stream)
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, _MAX_BYTES))
    name = _module_name(path)
    sys.meta_path.insert(0, FaultyFinder(name, str(ROOT / path), text))
    code = int(pytest.main([*_OPTIONS, *tests], plugins=[sys.modules[__name__]]))
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if code == 0 and not isinstance(getattr(spec, "loader", None), _FaultyLoader):
        code = NOT_LOADED
    os._exit(code)


def pytest_collection() -> None:
    """pytest hook: the same Hypothesis examples every time, none stored, and no shrinking: the first failure is enough."""
    settings.register_profile(
        "mutants", settings.default, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate], print_blob=False
    )
    settings.load_profile("mutants")


def _module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")
