# SPDX-License-Identifier: GPL-2.0-only
"""The place in the code that an event comes from, as a report says it."""

from __future__ import annotations

import sys
from functools import cache
from types import CodeType, FrameType

from uvfio.runtime.shown import shown_path

# Below these, the caller is what a reader wants to see.
_INNER = ("/uvfio/runtime/", "/uvfio/linux/kernel/", "/uvfio/check/", "/contextlib.py")

Place = tuple[CodeType, int]


def caller() -> Place:
    """Cheap enough for every access: the code and the line that the primitive was used in."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_back is not None:
        if not _inner(frame.f_code.co_filename):
            break
        frame = frame.f_back
    assert frame is not None
    return frame.f_code, frame.f_lineno


@cache
def _inner(path: str) -> bool:
    return any(part in path for part in _INNER)


def spell(place: Place) -> str:
    """``vfio_group_fops_open() at linux/vfio/group.py:217``."""
    code, line = place
    return f"{code.co_name}() at {shown_path(code.co_filename)}:{line}"
