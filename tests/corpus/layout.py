# SPDX-License-Identifier: GPL-2.0-only
"""How the argument of an ioctl is laid out."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Fields = tuple[tuple[str, str], ...]

KINDS = {"u8": "B", "u16": "H", "u32": "I", "s32": "i", "u64": "Q"}


def fields(text: str) -> Fields:
    """``"u32 flags id, u64 iova"`` as pairs of name and struct letter."""
    pairs = []
    for part in text.split(","):
        kind, *names = part.split()
        pairs += [(name, KINDS[kind]) for name in names]
    return tuple(pairs)


def _wrap(value: int, code: str) -> int:
    """*value* as a C program would store it."""
    size = 256 ** struct.calcsize(code)
    value %= size
    return value - size if code == "i" and value >= size // 2 else value


class Layout:
    """
    What a call's argument points to. The first field is the size, filled in when it is
    played (not where it is called otherwise), the second *op* if there is one; *room* is
    what the size says if not the size of the fields. *new_fd* is the field that has a new
    file's number afterwards.
    """

    def __init__(self, request: int, text: str, op: int | None = None, room: int = 0, new_fd: str = "") -> None:
        self.request = request
        self.op = () if op is None else (op,)
        self.sized = text.split()[1] in ("size", "argsz")
        self.fields = fields(text)
        self.code = struct.Struct("<" + "".join(code for _, code in self.fields))
        self.names = [name for name, _ in self.fields]
        self.size = self.code.size
        self.room = room or self.size
        self.new_fd = new_fd

    @property
    def given(self) -> list[str]:
        """The fields that a call gives."""
        return self.names[self.sized + len(self.op) :]

    def head(self, size: int | None) -> list[int]:
        """What comes before the fields that a call gives; *size* instead of the usual one."""
        return [self.room if size is None else size, *self.op] if self.sized else []

    def pack(self, values: Sequence[int]) -> bytes:
        fixed = [_wrap(value, code) for value, (_, code) in zip(values, self.fields, strict=True)]
        return self.code.pack(*fixed).ljust(self.room, b"\0")

    def unpack(self, data: bytes) -> tuple[int, ...]:
        return self.code.unpack(data)
