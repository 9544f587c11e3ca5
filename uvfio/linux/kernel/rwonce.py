# SPDX-License-Identifier: GPL-2.0-only
"""
``READ_ONCE``. Mirrors ``include/asm-generic/rwonce.h``.

Difference from Linux: ``READ_ONCE(group, "owner")`` for ``READ_ONCE(group->owner)``.
"""

from __future__ import annotations

from typing import Any

from uvfio.runtime.struct import read_once


def READ_ONCE(obj: Any, name: str) -> Any:
    """The field *name* of *obj*, read without a lock on purpose: no data race."""
    return read_once(obj, name)
