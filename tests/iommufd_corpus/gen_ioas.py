# SPDX-License-Identifier: GPL-2.0-only
"""Calls on IOASes and their memory."""

from __future__ import annotations

import struct

from corpus.choices import Op, flags

from iommufd_corpus.state import A0, HALF, PAGE, Area, Call, State

FIXED, WRITEABLE, READABLE = 1, 2, 4


def ioas_alloc(s: State) -> Call:
    return ["IOAS_ALLOC", [int(s.chance(3)), 0]]


def destroy(s: State) -> Call:
    return ["DESTROY", [s.id(*s.kinds.values(), wrong=10)]]


def _map_flags(s: State) -> int:
    return flags(s, (FIXED, 88), (WRITEABLE, 85), (READABLE, 93))


def _near(s: State, ioas: int) -> int:
    """An IOVA: beside a mapping, on one, or anywhere."""
    area = s.area(ioas)
    if area is None or s.chance(45):
        return s.iova()
    return int(s.one(area.iova + area.length, area.iova + area.length + PAGE, area.iova, area.iova - PAGE))


def ioas_map(s: State) -> Call:
    ioas = s.id("ioas")
    buffer, offset, length = s.memory()
    iova = _near(s, ioas)
    if buffer == "H" and s.chance(60):
        iova = A0 + s.one(0, 1 << 21, 2 << 21, 1 << 20, 1 << 12)
    return ["IOAS_MAP", [_map_flags(s), ioas, int(s.chance(1)), f"{buffer}+{offset}", length, iova]]


def ioas_map_file(s: State) -> Call:
    ioas = s.id("ioas")
    # Not the iommufd itself: a mapping of it keeps it from ever being released.
    fd = (
        s.file("dmabuf", wrong=0)
        if s.of_files("dmabuf") and s.chance(50)
        else s.one("memfd", "memfd", "memfd", "memfd", "memfd", "eventfd")
    )
    fd = s.one(-1, "h99") if s.chance(3) else fd
    start = PAGE * s.rng.randrange(8) + (s.one(0, 0, HALF) if s.fine else 0)
    length = s.length() if s.chance(60) else PAGE
    return ["IOAS_MAP_FILE", [_map_flags(s), ioas, fd, start, length, _near(s, ioas)]]


def ioas_copy(s: State) -> Call:
    src, dst = s.id("ioas"), s.id("ioas")
    area = s.area(src)
    if area is None:
        return ["IOAS_COPY", [_map_flags(s), dst, src, PAGE, s.iova(), s.iova()]]
    start, length = part(s, area)
    if s.chance(2):  # the n-th area of the source
        return ["IOAS_COPY", [_map_flags(s) | 1 << 16, dst, src, PAGE, _near(s, dst), s.one(0, 1, 9)]]
    return ["IOAS_COPY", [_map_flags(s), dst, src, length, _near(s, dst), start]]


def part(s: State, area: Area) -> tuple[int, int]:
    """All of an area, or some of it, or too much."""
    if s.chance(50):
        return area.iova, area.length
    step = s.one(PAGE, HALF) if s.fine else PAGE
    skip = step * s.rng.randrange(max(1, min(area.length // step, 8)))
    length = step * s.one(1, 1, 2, 3, 4)
    if skip + length > area.length and not s.chance(15):
        length = max(area.length - skip, step)
    return area.iova + skip, length


def ioas_unmap(s: State) -> Call:
    ioas = s.id("ioas")
    area = s.area(ioas)
    if s.chance(4):
        return ["IOAS_UNMAP", [ioas, 0, 2**64 - 1]]
    if area is None:
        return ["IOAS_UNMAP", [ioas, s.iova(), s.length()]]
    if s.chance(70):
        return ["IOAS_UNMAP", [ioas, area.iova, area.length]]
    return ["IOAS_UNMAP", [ioas, *s.one(part(s, area), (area.iova - 4 * PAGE, 16 * PAGE), (A0, 64 * PAGE))]]


def _ranges(s: State) -> list[tuple[int, int]]:
    starts = [A0 + PAGE * 16 * s.rng.randrange(8) for _ in range(s.one(0, 1, 1, 2, 2, 3))]
    return [(a, a + s.one(16 * PAGE, 8 * PAGE, 64 * PAGE) - s.one(1, 1, 1, 0)) for a in starts]


def allow_iovas(s: State) -> Call:
    ranges = _ranges(s)
    if s.chance(10):
        ranges = s.one([(5, 5)], [(6, 5)], [(0, 2**64 - 1)], [(1 << 40, (1 << 41) - 1)])
    data = b"".join(struct.pack("<QQ", *r) for r in ranges)
    number = len(ranges) if s.chance(95) else s.one(0, 1, 500, 1 << 20)
    return ["IOAS_ALLOW_IOVAS", [s.id("ioas"), number, int(s.chance(2)), "X+0"], {"in": data.hex()}]


def iova_ranges(s: State) -> Call:
    number = s.one(0, 1, 1, 2, 4, 4)
    at = "X+0" if s.chance(95) else s.one("R+0", 8)
    return ["IOAS_IOVA_RANGES", [s.id("ioas"), number, int(s.chance(2)), at, 0], {"out": 64}]


def option(s: State) -> Call:
    which = s.one(0, 1, 1, 1, 1)
    target = s.id("ioas") if which else s.one(0, 0, 0, 1)
    value = s.one(0, 1, 1, 2) if s.chance(95) else 2**64 - 1
    which = s.one(2, 77) if s.chance(2) else which
    return [
        "OPTION",
        [which, s.one(0, 0, 1, 1, 1, 2) if s.chance(30) else s.one(0, 1), int(s.chance(2)), target, value],
    ]


def vfio_ioas(s: State) -> Call:
    return ["VFIO_IOAS", [s.id("ioas"), s.one(0, 0, 1, 1, 1, 2) if s.chance(97) else 3, int(s.chance(2))]]


def change_process(s: State) -> Call:
    return ["IOAS_CHANGE_PROCESS", [int(s.chance(5))]]


def get_pa(s: State) -> Call:
    ioas = s.id("ioas")
    area = s.area(ioas)
    iova = area.iova if area is not None else s.iova()
    return ["IOAS_NOIOMMU_GET_PA", [int(s.chance(3)), ioas, int(s.chance(3)), iova, s.one(PAGE, 0, 1, 1 << 20), 0]]


def add_reserved(s: State) -> Call:
    start = s.one(A0 + PAGE * s.rng.randrange(64), 0x1000, 0, 1 << 32, 2**64 - 0x2000)
    return ["ADD_RESERVED", [s.id("ioas"), 0, start, s.one(PAGE, PAGE, 4 * PAGE, 1, 0, 0x1FFF, 2**63)]]


def check_refs(s: State) -> Call:
    buffer, offset, length = s.memory()
    offset -= offset % PAGE if s.chance(96) else 0
    length = max(length // PAGE, 1) * PAGE if s.chance(97) else length
    return ["MD_CHECK_REFS", [0, 0, length, f"{buffer}+{offset}", s.one(0, 0, 1, 1, 1, 2, 2, 3)]]


def memory_limit(s: State) -> Call:
    return ["SET_TEMP_MEMORY_LIMIT", [0, 0, s.one(65536, 16, 12, 11, 0, 4096)]]


def drop(s: State) -> Call:
    return ["drop", s.one("P", "P", "S", "F")]


def fresh(s: State) -> Call:
    return ["fresh", s.rng.choice(sorted(s.dropped)) if s.dropped else "P"]


def vmpin(s: State) -> Call:
    return ["vmpin"]


def checksums(s: State) -> Call:
    return ["sum"]


# generator, group, weight, kinds of objects that it needs to be of use
OPS = [
    Op(ioas_alloc, "ioas", 8, ()),
    Op(destroy, "any", 22, ()),
    Op(ioas_map, "map", 50, ("ioas",)),
    Op(ioas_map_file, "map", 14, ("ioas",)),
    Op(ioas_copy, "map", 14, ("ioas",)),
    Op(ioas_unmap, "map", 24, ("ioas",)),
    Op(allow_iovas, "ioas", 6, ("ioas",)),
    Op(iova_ranges, "ioas", 6, ("ioas",)),
    Op(option, "ioas", 8, ("ioas",)),
    Op(vfio_ioas, "vfio", 8, ("ioas",)),
    Op(change_process, "ioas", 2, ()),
    Op(get_pa, "ioas", 1, ("ioas",)),
    Op(add_reserved, "ioas", 4, ("ioas",)),
    Op(check_refs, "map", 16, ()),
    Op(memory_limit, "ioas", 1, ()),
    Op(drop, "process", 3, ()),
    Op(fresh, "process", 8, ("dropped",)),
    Op(vmpin, "any", 8, ()),
    Op(checksums, "any", 2, ()),
]
