# SPDX-License-Identifier: GPL-2.0-only
"""
A second copy of the kernel rooms, patched, beside the one on disk.

The modules below ``COPIED`` are imported afresh while the patched texts stand in for
their files; ``runtime``, ``uapi``, ``explore`` and ``check`` stay shared, or the two
copies could not meet. An import inside a function would reach the unpatched module,
which is why a test forbids those.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import uvfio
from uvfio.bugs.patch import PACKAGE, Bug

COPIED = ("linux", "devices", "machine", "scenarios")


def scenarios(bug: Bug) -> Mapping[str, Any]:
    """The scenarios by name, over kernel rooms with *bug* in. Raises StalePatch."""
    sources = {str(PACKAGE / path): text for path, text in bug.sources().items()}
    with _fresh_modules(_Finder(sources)):
        found: Mapping[str, Any] = importlib.import_module("uvfio.scenarios.catalogue").SCENARIOS
        return found


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a given text in place of the file's."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> Any:
        return compile(self.text, self.path, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        return self.text  # so that a report quotes what ran, not what is on disk


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or spec.origin not in self.sources:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(fullname, spec.origin, self.sources[spec.origin]))


@contextmanager
def _fresh_modules(finder: _Finder) -> Iterator[None]:
    """Inside, the copied modules are imported anew; afterwards all is as it was."""
    saved = {name: module for name, module in sys.modules.items() if _copied(name)}
    attributes = {name: getattr(uvfio, name) for name in COPIED if hasattr(uvfio, name)}
    for name in saved:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _copied(name)]:
            del sys.modules[name]
        sys.modules.update(saved)
        for name, module in attributes.items():
            setattr(uvfio, name, module)


def _copied(name: str) -> bool:
    room, _dot, below = name.partition(".")
    return room == "uvfio" and below.partition(".")[0] in COPIED
