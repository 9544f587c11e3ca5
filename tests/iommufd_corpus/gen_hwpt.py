# SPDX-License-Identifier: GPL-2.0-only
"""Calls on devices, hwpts, vIOMMUs and their queues."""

from __future__ import annotations

import struct

from corpus.choices import Op, flags

from iommufd_corpus.state import A0, HALF, PAGE, Call, State

SELFTEST = 0xDEAD
MOCK = 0xDEADBEEF
WRONG = 0xDADBEEF
NEST_PARENT, DIRTY, FAULT, PASID = 1, 2, 4, 8
HWPTS = ("paging", "parent", "nested", "auto")


def mock_domain(s: State) -> Call:
    target = s.id("ioas", *(HWPTS if s.chance(30) else ()))
    if s.chance(40):
        return ["MOCK_DOMAIN", [target, 0, 0, 0, 0]]
    return ["MOCK_DOMAIN_FLAGS", [target, 0, 0, 0, 0, s.one(0, 0, 4, 4, 1, 5) if s.chance(97) else s.one(2, 8)]]


def replace(s: State) -> Call:
    faulty = [n for n in s.of(*HWPTS) if s.info[n].get("fault")]
    if s.theme == "fault" and faulty and s.chance(50):
        return ["MOCK_DOMAIN_REPLACE", [s.id("stdev"), 0, s.rng.choice(faulty)]]
    nested = s.theme in ("nest", "event", "fault") and s.chance(85)
    if s.theme == "pasid" and s.chance(60):
        able = [n for n in s.of(*HWPTS) if s.info[n]["flags"] & 8]
        if able:
            return ["MOCK_DOMAIN_REPLACE", [s.id("stdev"), 0, s.rng.choice(able)]]
    return ["MOCK_DOMAIN_REPLACE", [s.id("stdev"), 0, s.id(*(("nested",) if nested else ("ioas", *HWPTS)))]]


def _data(s: State, *words: int) -> tuple[int, dict[str, str]]:
    data = struct.pack(f"<{len(words)}I", *words)
    length = len(data) if s.chance(94) else s.one(0, 3, 4, 6, 9, 12)
    return length, {"in": data.hex()}


def hwpt_alloc(s: State) -> Call:
    """A paging hwpt of an IOAS."""
    bits = flags(
        s,
        (NEST_PARENT, 35),
        (DIRTY, 30),
        (FAULT, 50 if s.theme == "fault" else 15),
        (PASID, 70 if s.theme == "pasid" else 30),
    )
    if bits & FAULT and bits & NEST_PARENT and not s.chance(5):
        bits &= ~NEST_PARENT
    kind, length, how = 0, 0, {}
    if s.chance(20):
        kind = SELFTEST if s.chance(92) else s.one(1, 3, 99)
        length, how = _data(s, 7, s.one(0, 0, 0, 1 if s.theme == "huge" else 0, 2))
    fault = s.id("fault") if bits & FAULT else 0
    dev, where = s.id("idev"), "X+0" if length else 0
    return ["HWPT_ALLOC", [bits, dev, s.id("ioas"), 0, int(s.chance(1)), kind, length, where, fault, 0], how]


def hwpt_nested(s: State) -> Call:
    bits = flags(s, (FAULT, 35), (PASID, 35)) | (s.one(NEST_PARENT, DIRTY) if s.chance(3) else 0)
    kind = SELFTEST if s.chance(95) else s.one(0, 1, 99)
    length, how = _data(s, s.one(0xBADBEEF, 0x11, 0x22), 0)
    fault = s.id("fault") if bits & FAULT else 0
    under = s.id("viommu", "viommu", "parent") if s.chance(93) else s.id("paging", "auto", "nested")
    at = "X+0" if s.chance(97) else 8
    return ["HWPT_ALLOC", [bits, s.id("idev"), under, 0, 0, kind, length, at, fault, s.one(0, 0, 7)], how]


def hw_info(s: State) -> Call:
    length = s.one(8, 8, 4, 12, 16, 0)
    kind = s.one(0, 0xFEEDBEEF, 7)
    at = "X+0" if s.chance(90) else s.one(0, 8, "R+0")
    values = [s.one(0, 0, 1, 1) if s.chance(97) else 2, s.id("idev"), length, at, kind, 0, 0, 0, int(s.chance(2)), 0]
    return ["GET_HW_INFO", values, {"in": "ff" * 16}]


def set_dirty(s: State) -> Call:
    return ["HWPT_SET_DIRTY_TRACKING", [s.one(0, 1, 1, 1) if s.chance(97) else 2, s.tracked(), 0]]


def _window(s: State, hwpt: int) -> tuple[int, int, int]:
    """A place, a length and a unit for a bitmap."""
    unit = s.one(HALF, HALF, PAGE, PAGE, 2 * PAGE, 4 * PAGE)
    area = s.area(s.ioas_of(hwpt))
    start = area.iova - area.iova % unit if area is not None else A0
    if s.chance(25):
        start -= unit * s.rng.randrange(4)
    return start, unit * s.one(1, 2, 4, 8, 8, 16, 16, 32, 37, 64), unit


def dirty(s: State) -> Call:
    hwpt = s.tracked()
    start, length, unit = _window(s, hwpt)
    unit = s.one(0, 3 * PAGE, 1) if s.chance(3) else unit
    bits = s.one("01", "0101", "ff00ff", "10", "8001", "55aa55aa55aa55aa", "00", "1000000000000080")
    at = "X+0" if s.chance(96) else s.one(0, 8)
    return ["DIRTY", [hwpt, 0, 0, 0, start, length, unit, at, 0], {"in": bits}]


def get_dirty(s: State) -> Call:
    hwpt = s.tracked()
    start, length, unit = _window(s, hwpt)
    unit = s.one(0, 3 * PAGE, 1 << 20) if s.chance(3) else unit
    at = s.one("X+0", "X+0", "X+0", "X+1", "X+8", "X+5") if s.chance(97) else s.one(8, "R+0", "X+16380")
    how = {"out": 48} if s.chance(90) else {"in": "aa" * 48}
    return ["HWPT_GET_DIRTY_BITMAP", [hwpt, s.one(0, 0, 1) if s.chance(98) else 2, 0, start, length, unit, at], how]


def invalidate(s: State) -> Call:
    target = s.id("nested", "viommu") if s.chance(95) else s.id(*HWPTS)
    viommu = s.kinds.get(target) == "viommu"
    virts = [i["virt"] for i in s.info.values() if i.get("viommu") == target and "virt" in i] or [0]
    entries = []
    for _ in range(s.one(0, 1, 1, 1, 2, 2, 3)):
        which = s.rng.randrange(4) if s.chance(93) else s.one(4, 0xFFFFFFFF)
        bits = s.one(0, 0, 0, 1) if s.chance(95) else 2
        virt = s.rng.choice(virts) if s.chance(93) else s.one(0, 0x77)
        entries.append(
            struct.pack("<3I", bits, virt & 0xFFFFFFFF, which) if viommu else struct.pack("<2I", bits, which)
        )
    right = 12 if viommu else 8
    length = right if s.chance(94) else s.one(0, 1, 4, 7, 8, 13, 16, PAGE, PAGE + 1)
    number = len(entries) if s.chance(95) else s.one(0, 1, 5, (1 << 19) + 1)
    at = "X+0" if s.chance(96) else s.one(0, 8, "X+16372")
    kind = MOCK if s.chance(96) else s.one(WRONG, 0)
    values = [target, at, kind, length, number, int(s.chance(2))]
    return ["HWPT_INVALIDATE", values, {"in": b"".join(entries).hex()}]


def check_iotlb(s: State) -> Call:
    value = s.one(0, 0xBADBEEF, 0x11, 0x22)
    return ["MD_CHECK_IOTLB", [s.id("nested"), 0, s.rng.randrange(4) if s.chance(97) else 4, value]]


def check_cache(s: State) -> Call:
    value = s.one(0, 0, 0xBADDAD)
    return ["DEV_CHECK_CACHE", [s.id("idev"), 0, s.rng.randrange(4) if s.chance(97) else 4, value]]


def check_map(s: State) -> Call:
    hwpt = s.id(*HWPTS)
    area = s.area(s.ioas_of(hwpt))
    if area is None or area.buffer == "0":
        return ["MD_CHECK_MAP", [hwpt, 0, s.iova(), s.one(PAGE, 0, HALF, 1), "S+0"]]
    step = s.one(0, 0, 0, PAGE, HALF)
    skew = s.one(PAGE, HALF) if s.chance(6) else 0
    length = s.one(area.length - step, HALF, PAGE) if area.length > step else PAGE
    length += HALF if s.chance(4) else 0
    where = f"{area.buffer}+{area.offset + step + skew}"
    return ["MD_CHECK_MAP", [hwpt, 0, area.iova + step, min(length, 1 << 21), where]]


def viommu_alloc(s: State) -> Call:
    kind = MOCK if s.chance(95) else s.one(0, 1, 2)
    length = s.one(0, 8, 24, 24) if s.chance(94) else s.one(1, 7, 16, 25)
    how = {"in": struct.pack("<2I2Q", s.one(0x55, 0xBEEF), 0, 0, 0).hex()} if length else {}
    at = ("X+0" if s.chance(97) else s.one(8, "R+0")) if length else 0
    hwpt = s.id("parent") if s.chance(92) else s.id(*HWPTS)
    return ["VIOMMU_ALLOC", [int(s.chance(1)), kind, s.id("idev"), hwpt, 0, length, int(s.chance(3)), at], how]


def vdevice_alloc(s: State) -> Call:
    virt = s.one(0x99, 0x88, 0x77, 0, 1) if s.chance(95) else s.one(1 << 40, 2**64 - 1)
    return ["VDEVICE_ALLOC", [s.id("viommu"), s.id("idev"), 0, virt]]


def hw_queue_alloc(s: State) -> Call:
    viommu = s.id("viommu")
    area = s.area(s.ioas_of(viommu))
    base, length = (area.iova, s.one(PAGE, HALF, area.length)) if area is not None else (s.iova(), PAGE)
    if area is not None and s.chance(50):
        base += -base % PAGE
    if s.chance(10):
        base += s.one(HALF, PAGE, 1)
    if s.chance(4):
        base, length = s.one((2**64 - 1, 2), (base, 0), (base, 2**64 - PAGE), (base, 1 << 44))
    kind = MOCK if s.chance(95) else s.one(0, 1)
    index = s.one(0, 0, 1) if s.chance(96) else 2
    return ["HW_QUEUE_ALLOC", [int(s.chance(1)), viommu, kind, index, 0, base, length]]


def mmap(s: State) -> Call:
    offset, length = s.rng.choice(s.regions) if s.regions and s.chance(92) else (PAGE, 2 * PAGE)
    if s.chance(15):
        offset, length = s.one((offset, PAGE), (offset + PAGE, length), (0, length), (offset, length + 1))
    prot, shared = (3, 1) if s.chance(90) else s.one((7, 1), (3, 2), (1, 1), (4, 1))
    return ["mmap", length, prot, shared, offset]


def munmap(s: State) -> Call:
    return ["munmap", s.rng.choice(s.views)] if s.views else mmap(s)


def peek(s: State) -> Call:
    return ["peek", s.rng.choice(s.views), s.one(0, 0, 8, PAGE)] if s.views else mmap(s)


OPS = [
    Op(mock_domain, "device", 16, ("ioas",)),
    Op(replace, "device", 18, ("stdev",)),
    Op(hwpt_alloc, "hwpt", 22, ("idev",)),
    Op(hwpt_nested, "nest", 22, ("parent",)),
    Op(hw_info, "device", 5, ("idev",)),
    Op(set_dirty, "dirty", 10, ("paging", "parent")),
    Op(dirty, "dirty", 18, ("paging", "parent")),
    Op(get_dirty, "dirty", 18, ("paging", "parent")),
    Op(invalidate, "nest", 12, ("nested", "viommu")),
    Op(check_iotlb, "nest", 8, ("nested",)),
    Op(check_cache, "nest", 6, ("idev",)),
    Op(check_map, "map", 18, ("paging", "parent", "auto")),
    Op(viommu_alloc, "viommu", 10, ("parent",)),
    Op(vdevice_alloc, "viommu", 14, ("viommu",)),
    Op(hw_queue_alloc, "viommu", 12, ("viommu",)),
    Op(mmap, "viommu", 8, ("regions",)),
    Op(munmap, "viommu", 5, ("views",)),
    Op(peek, "viommu", 5, ("views",)),
]
