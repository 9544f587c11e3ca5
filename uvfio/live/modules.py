# SPDX-License-Identifier: GPL-2.0-only
"""
What modprobe reads to find that a module is in the kernel already.

On a host with modules for its kernel, ``/sys/module/NAME/initstate`` is enough. Where it
has none, as in most containers, ``modules.builtin.bin`` names those of the machine. Its
format is kmod's index: a trie, numbers big-endian, the kind of a node in the high bits of
its offset (kmod: ``libkmod-index.h``).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Collection

from uvfio.linux.base.sysfs import sysfs_dir

_PATH = re.compile(r"(/usr)?/lib/modules/[^/]+/modules\.builtin\.bin")
_MAGIC, _VERSION = 0xB007F457, 0x00020001
_PREFIX, _VALUES, _CHILDS = 0x80000000, 0x40000000, 0x20000000
_ONE_EMPTY_VALUE = struct.pack(">II", 1, 0) + b"\0"


def builtin_of(path: str) -> bytes | None:
    """The content of *path* if that is the index of a kernel that the host has none for."""
    if _PATH.fullmatch(path) is None or os.path.exists(path):
        return None
    return builtin_index(sysfs_dir("module").children)


def builtin_index(names: Collection[str]) -> bytes:
    """``modules.builtin.bin`` for the modules *names*."""
    data = bytearray(12)
    root = _add_node(data, sorted(names))
    struct.pack_into(">III", data, 0, _MAGIC, _VERSION, root)
    return bytes(data)


def _add_node(data: bytearray, names: list[str]) -> int:
    """Append the node for all that is left of *names*, after those below it; its offset and kind."""
    if len(names) == 1:
        at = len(data) | _PREFIX | _VALUES
        data += names[0].encode() + b"\0" + _ONE_EMPTY_VALUE
        return at
    firsts = sorted({ord(name[0]) for name in names if name})
    below = {first: _add_node(data, [name[1:] for name in names if name[:1] == chr(first)]) for first in firsts}
    at = len(data) | _CHILDS
    first, last = firsts[0], firsts[-1]
    data += struct.pack(f">BB{last - first + 1}I", first, last, *(below.get(c, 0) for c in range(first, last + 1)))
    if "" in names:
        at |= _VALUES
        data += _ONE_EMPTY_VALUE
    return at
