# SPDX-License-Identifier: GPL-2.0-only
"""
Structs that cross the system-call line, declared as their header shows them.

>>> iommu_destroy = cstruct("iommu_destroy", size=8, fields='''
...     u32 size
...     u32 id
... ''')
>>> iommu_destroy(size=8, id=3).pack().hex()
'0800000003000000'
>>> iommu_destroy.unpack(bytes(8)).id
0

Layout is the x86-64 ABI's: every field at its natural alignment, ``pad`` for a gap
that the header has no name for. The stated size is checked when it is declared.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "s32": "i", "s64": "q"}

Self = TypeVar("Self", bound="CStruct")


class CStruct:
    """Base of all; fields are attributes, missing ones are zero."""

    __slots__ = ()
    size_of: ClassVar[int]
    fields: ClassVar[tuple[str, ...]]
    offsets: ClassVar[dict[str, int]]
    layout: ClassVar[struct.Struct]
    fill: ClassVar[Callable[[Any, tuple[Any, ...]], None]]
    values: ClassVar[Callable[[Any], tuple[Any, ...]]]

    def __init__(self, **values: Any) -> None:
        for name, zero in zip(self.fields, self.layout.unpack(bytes(self.layout.size)), strict=True):
            setattr(self, name, values.pop(name, zero))
        if values:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(values)}")

    @classmethod
    def unpack(cls: type[Self], data: bytes) -> Self:
        """From the first bytes of *data*; what is missing at the end is zero."""
        made = cls.__new__(cls)
        if len(data) != cls.size_of:
            data = data[: cls.size_of].ljust(cls.size_of, b"\0")
        cls.fill(made, cls.layout.unpack(data))
        return made

    def pack(self) -> bytes:
        return self.layout.pack(*self.values())

    @classmethod
    def offsetof(cls, field: str) -> int:
        return cls.offsets[field]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.fields)
        return f"{type(self).__name__}({values})"


def cstruct(name: str, size: int, fields: str) -> Any:
    """
    Declare a struct: *fields* has one "type name" a line; types u8 u16 u32 u64 s32
    s64 and ``u8[n]`` (bytes). ValueError when the layout is not *size* bytes.
    """
    names: list[str] = []
    offsets: dict[str, int] = {}
    code, at, widest = "<", 0, 1
    for line in fields.split("\n"):
        if not line.strip():
            continue
        ctype, field = line.split()
        if ctype.startswith("u8["):
            part, width, align = f"{ctype[3:-1]}s", int(ctype[3:-1]), 1
        else:
            part = _CODES[ctype]
            width = align = struct.calcsize(part)
        gap = -at % align
        code += f"{gap}x" * bool(gap) + part
        offsets[field] = at + gap
        at += gap + width
        widest = max(widest, align)
        names.append(field)
    tail = -at % widest
    code += f"{tail}x" * bool(tail)
    layout = struct.Struct(code)
    if layout.size != size:
        raise ValueError(f"struct {name} must have {size} bytes, not {layout.size}")
    # No __slots__: Python would mangle ``__reserved`` there. What moves values in and out
    # is compiled for each struct, as dataclasses do: every call of a client comes by.
    each = "".join(f"self.{field}, " for field in names)
    body: dict[str, Any] = {"size_of": size, "fields": tuple(names), "offsets": offsets, "layout": layout}
    exec(f"def fill(self, values): {each}= values\ndef values(self): return {each}", {}, body)
    return type(name, (CStruct,), body)
