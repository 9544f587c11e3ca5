# SPDX-License-Identifier: GPL-2.0-only
"""Calls on device nodes and their iommufds."""

from __future__ import annotations

from corpus.choices import PAGE, Call, Op, flags

from vfio_corpus.gen_group import iova, memory
from vfio_corpus.state import State

TABLES = ("ioas", "ioas", "paging", "parent", "auto")
FIXED, WRITEABLE, READABLE = 1, 2, 4
NEST_PARENT, DIRTY, FAULT, PASID = 1, 2, 4, 8
VTD_S1 = 1


def open_cdev(s: State) -> Call:
    return ["open", "cdev", s.device()]


def open_iommufd(s: State) -> Call:
    return ["open", "iommufd"]


def bind(s: State) -> Call:
    iommufd = s.file("iommufd") if s.chance(94) else s.one(-1, -2, "h99", "argument")
    bits = int(s.chance(4)) if s.chance(98) else s.one(2, 1 << 31)
    token = s.one(0, "X+0", 8) if bits else 0
    size = s.one(16, 16, 16, 20, 24)
    return ["BIND_IOMMUFD", s.file("cdev", "cdev", "bound"), [bits, iommufd, 0, token], {"size": size}]


def _bound(s: State) -> tuple[str, str]:
    name = s.file("bound")
    return name, s.owner_of.get(name, "")


def attach(s: State) -> Call:
    name, iommufd = _bound(s)
    table = s.owned(iommufd, *TABLES)
    if s.chance(12):
        return ["ATTACH_PT", name, [1, table, s.one(0, 1, 5, 1 << 19, 1 << 20, 0xFFFF_FFFF)]]
    return ["ATTACH_PT", name, [0 if s.chance(97) else s.one(2, 3), table, 0], {"size": s.one(12, 12, 16)}]


def detach(s: State) -> Call:
    name, _iommufd = _bound(s)
    if s.chance(20):
        return ["DETACH_PT", name, [1, s.one(0, 1, 5, 0xFFFF_FFFF)]]
    return ["DETACH_PT", name, [0 if s.chance(96) else 2, 0], {"size": s.one(8, 8, 12)}]


def ioas_alloc(s: State) -> Call:
    return ["IOAS_ALLOC", s.file("iommufd"), [0, 0]]


def ioas_map(s: State) -> Call:
    iommufd = s.file("iommufd")
    ioas = s.owned(iommufd, "ioas")
    where, length = memory(s)
    bits = flags(s, (FIXED, 88), (WRITEABLE, 85), (READABLE, 94))
    return ["IOAS_MAP", iommufd, [bits, ioas, 0, where, length, iova(s, (iommufd, ioas))]]


def ioas_unmap(s: State) -> Call:
    iommufd = s.file("iommufd")
    ioas = s.owned(iommufd, "ioas")
    areas = s.areas.get((iommufd, ioas))
    start, length = s.rng.choice(areas) if areas and s.chance(85) else (iova(s, (iommufd, ioas)), PAGE)
    if s.chance(10):
        start, length = s.one((0, 2**64 - 1), (start, PAGE), (start + PAGE, PAGE), (start, length + 4 * PAGE))
    return ["IOAS_UNMAP", iommufd, [ioas, start, length]]


def iova_ranges(s: State) -> Call:
    iommufd = s.file("iommufd")
    return ["IOAS_IOVA_RANGES", iommufd, [s.owned(iommufd, "ioas"), s.one(0, 1, 4, 4), 0, "X+0", 0], {"out": 64}]


def hwpt_alloc(s: State) -> Call:
    iommufd = s.file("iommufd")
    bits = flags(s, (NEST_PARENT, 25), (DIRTY, 25), (FAULT, 8), (PASID, 20))
    fault = s.owned(iommufd, "fault") if bits & FAULT else 0
    under = s.owned(iommufd, "ioas", wrong=10)
    kind = 0 if s.chance(95) else s.one(VTD_S1, 2, 99)
    return ["HWPT_ALLOC", iommufd, [bits, s.owned(iommufd, "idev"), under, 0, 0, kind, 0, 0, fault, 0]]


def hw_info(s: State) -> Call:
    iommufd = s.file("iommufd")
    length, kind = s.one(24, 24, 16, 64, 0, 40), s.one(0, 0, 0, 1, 2)
    values = [int(s.chance(25)), s.owned(iommufd, "idev"), length, "X+0", kind, 0, 0, 0, 0, 0]
    return ["GET_HW_INFO", iommufd, values, {"in": "ee" * 64}]


def viommu_alloc(s: State) -> Call:
    iommufd = s.file("iommufd")
    hwpt, idev = s.owned(iommufd, "parent", "paging"), s.owned(iommufd, "idev")
    return ["VIOMMU_ALLOC", iommufd, [0, s.one(0, 1, 2), idev, hwpt, 0, 0, 0, 0]]


def set_dirty(s: State) -> Call:
    iommufd = s.file("iommufd")
    return ["HWPT_SET_DIRTY_TRACKING", iommufd, [s.one(0, 1), s.owned(iommufd, "paging", "parent", "auto"), 0]]


def fault_alloc(s: State) -> Call:
    return ["FAULT_QUEUE_ALLOC", s.file("iommufd"), [0, 0, 0]]


def destroy(s: State) -> Call:
    iommufd = s.file("iommufd")
    return ["DESTROY", iommufd, [s.owned(iommufd, "ioas", "paging", "parent", "auto", "idev", "fault", wrong=10)]]


def vfio_ioas(s: State) -> Call:
    iommufd = s.file("iommufd")
    return ["VFIO_IOAS", iommufd, [s.owned(iommufd, "ioas"), s.one(0, 0, 1, 2), 0]]


OPS = [
    Op(open_cdev, "cdev", 8, ()),
    Op(open_iommufd, "cdev", 3, ()),
    Op(bind, "cdev", 10, ("cdev",)),
    Op(attach, "cdev", 12, ("bound",)),
    Op(detach, "cdev", 6, ("bound",)),
    Op(ioas_alloc, "iommufd", 4, ("iommufd",)),
    Op(ioas_map, "iommufd", 10, ("ioas",)),
    Op(ioas_unmap, "iommufd", 5, ("ioas",)),
    Op(iova_ranges, "iommufd", 3, ("ioas",)),
    Op(hwpt_alloc, "iommufd", 7, ("bound",)),
    Op(hw_info, "iommufd", 3, ("bound",)),
    Op(viommu_alloc, "iommufd", 1, ("bound",)),
    Op(set_dirty, "iommufd", 1, ("bound",)),
    Op(fault_alloc, "iommufd", 1, ("iommufd",)),
    Op(destroy, "iommufd", 5, ("iommufd",)),
    Op(vfio_ioas, "iommufd", 2, ("iommufd",)),
]
