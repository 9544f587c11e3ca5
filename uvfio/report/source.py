# SPDX-License-Identifier: GPL-2.0-only
"""
Places in the code, and the text that is there: the text that *ran*, which for a bug of
the catalogue is the patched one, together with what the patch has changed.
"""

from __future__ import annotations

import difflib
import inspect
import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from uvfio.runtime.shown import shown_path

# Below these, the caller is what a reader wants to see.
INNER = (
    "/uvfio/runtime/",
    "/uvfio/linux/kernel/",
    "/uvfio/scenarios/registry.py",
    "/uvfio/report/",
    "/uvfio/explore/",
    "/uvfio/check/",
    "/contextlib.py",
)
SYSCALLS = "/uvfio/linux/kernel/user.py"  # below the primitives' directory, but where a call comes in
AROUND = 6  # lines shown on both sides of a place that is in no function of its own


@dataclass(frozen=True)
class Place:
    """A line of code."""

    function: str
    file: str  # below the package
    line: int
    path: str = ""  # on this machine
    first: int = 0  # where the function begins

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


NOWHERE = Place("?", "?", 0)


class Sources:
    """The texts of all places of one run. Must be told while the code is loaded."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}  # by path

    def place(self, frame: FrameType, line: int) -> Place:
        """The place of *frame*, its text kept."""
        code = frame.f_code
        path = code.co_filename
        if path not in self._texts:
            self._texts[path] = _text(path, frame.f_globals).splitlines()
        return Place(code.co_name, shown_path(path), line, path, code.co_firstlineno)

    def function(self, place: Place) -> tuple[int, list[str]]:
        """The function around *place*: the number of its first line, and its lines."""
        lines = self._texts.get(place.path, [])
        if place.function.startswith("<"):  # a lambda, a comprehension: what is around it says more
            first = max(place.line - AROUND, 1)
            return first, lines[first - 1 : place.line + AROUND]
        return place.first, [
            line.rstrip("\n") for line in inspect.getblock([f"{x}\n" for x in lines[place.first - 1 :]])
        ]

    def patched(self, path: str) -> tuple[set[int], dict[int, list[str]]]:
        """
        What differs from the file on disk: the lines that only ran, and, by the number
        of the line before which they would stand, those that are only on disk. A line
        that only moved to the left or right is no difference.
        """
        ran = self._texts.get(path, [])
        try:
            disk = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return set(), {}
        added: set[int] = set()
        gone: dict[int, list[str]] = {}
        if ran != disk:
            bare_disk, bare_ran = ([line.strip() for line in lines] for lines in (disk, ran))
            for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, bare_disk, bare_ran, autojunk=False).get_opcodes():
                if tag != "equal":
                    added.update(range(j1 + 1, j2 + 1))
                    if i2 > i1:
                        gone[j1 + 1] = disk[i1:i2]
        return added, gone


def outer_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """*frame* and its callers, innermost first, without those that no reader asks for."""
    while frame is not None:
        code = frame.f_code
        syscall = code.co_filename.endswith(SYSCALLS) and not re.search(r"(^|\.)_|<locals>", code.co_qualname)
        if syscall or not any(part in code.co_filename for part in INNER):
            yield frame
        frame = frame.f_back


def _text(path: str, names: dict[str, Any]) -> str:
    """The text of a module: its loader knows, also when it is not what is on disk."""
    get_source = getattr(names.get("__loader__"), "get_source", None)
    try:
        text = get_source(names["__name__"]) if get_source is not None else None
    except (ImportError, KeyError, OSError):
        text = None
    return text if text is not None else "".join(linecache.getlines(path))
