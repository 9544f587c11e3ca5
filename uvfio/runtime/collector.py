# SPDX-License-Identifier: GPL-2.0-only
"""How often Python's garbage collector looks at what a machine is made of."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 20_000  # new objects between two looks


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """
    Look for garbage more seldom than Python does by itself, for as long as this is open.

    An explored run leaves a whole machine behind: looked for within a run, most of it is
    found to be still in use. And a live machine, whose objects go by their reference counts,
    would look through all that its clients have mapped while they wait: with a million
    mappings, a map would take twice as long.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], YOUNG) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
