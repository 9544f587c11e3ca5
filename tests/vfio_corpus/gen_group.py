# SPDX-License-Identifier: GPL-2.0-only
"""Calls on containers, groups and what type1 maps for them."""

from __future__ import annotations

from corpus.choices import PAGE, Call, Op, flags

from vfio_corpus.state import State

READ, WRITE, VADDR = 1, 2, 4
BITMAP, ALL = 1, 2
TYPE1, TYPE1V2 = 1, 3
TOKEN = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
TOPS = (
    0x1000,
    0xFEDF_F000,
    0xFEE0_0000,
    0xFEF0_0000,
    1 << 32,
    1 << 38,
    (1 << 39) - PAGE,
    1 << 39,
    1 << 48,
    2**64 - PAGE,
)


def open_container(s: State) -> Call:
    return ["open", "container"]


def open_group(s: State) -> Call:
    return ["open", "group", s.device()]


def close(s: State) -> Call:
    # The middle of a session is no place for the end of what it stands on.
    lesser = s.of_files("eventfd", "doorbell", "cdev", "dmabuf", "fault")
    if lesser and s.chance(60):
        return ["close", s.rng.choice(lesser)]
    return ["close", s.file(*s.files.values())]


def group_status(s: State) -> Call:
    return ["GROUP_GET_STATUS", s.file("group"), [0]]


def set_container(s: State) -> Call:
    owner = s.file("container", "container", "container", "iommufd") if s.chance(94) else s.one(-1, "h99", "argument")
    free = [name for name in s.of_files("group") if name not in s.owner_of]
    group = s.rng.choice(free) if free and s.chance(80) else s.file("group")
    return ["GROUP_SET_CONTAINER", group, [owner]]


def unset_container(s: State) -> Call:
    return ["GROUP_UNSET_CONTAINER", s.file("group"), s.one(0, 0, 0, 1)]


def get_device_fd(s: State) -> Call:
    ready = [name for name in s.of_files("group") if s.owner_of.get(name)]
    group = s.rng.choice(ready) if ready and s.chance(85) else s.file("group")
    name = s.addresses[s.device_of.get(group, "edu")]
    if s.theme == "bus" and s.chance(50):
        name = s.addresses[s.one("edu", "testdev")]  # of one group
    if s.chance(15):
        wrong = (
            *("", " ", name[:-1], name + " ", name + "0", "0000:00:1f.0", "x" * 5000, "é" * 40),
            *(f"{name} vf_token={TOKEN}", f"{name} vf_token={TOKEN[:-1]}", f"{name} vf_token={TOKEN.upper()}x"),
            *(f"{name} vf_token={TOKEN} vf_token={TOKEN}", f"{name} token", f"{name}  vf_token=", f"{name}\n"),
            s.addresses[s.device()],
        )
        name = s.rng.choice(wrong)
    at = [s.one("null", "edge")] if s.chance(2) else []
    return ["GROUP_GET_DEVICE_FD", group, name, *at]


def api_version(s: State) -> Call:
    return ["GET_API_VERSION", s.file("container", "iommufd"), s.one(0, 0, 7)]


def check_extension(s: State) -> Call:
    return [
        "CHECK_EXTENSION",
        s.file("container", "container", "iommufd"),
        s.rng.randrange(13) if s.chance(95) else 1 << 31,
    ]


def set_iommu(s: State) -> Call:
    untyped = [name for name in s.of_files("container") if name not in s.types]
    container = s.rng.choice(untyped) if untyped and s.chance(80) else s.file("container", "iommufd")
    kind = s.one(TYPE1, TYPE1V2, TYPE1V2, TYPE1V2, TYPE1V2) if s.chance(88) else s.one(0, 2, 6, 7, 8, 9, 99)
    return ["SET_IOMMU", container, kind]


def _container(s: State) -> str:
    typed = [name for name in s.types if name in s.files]
    return str(s.rng.choice(typed)) if typed and s.chance(92) else s.file("container", "iommufd")


def iommu_get_info(s: State) -> Call:
    # What is behind the struct is looked at: capabilities may be there.
    size = s.one(24, 24, 120, 120, 120, 160, 16, 20, 56, 72, 96, 104, 119, 15, 0)
    return ["IOMMU_GET_INFO", _container(s), [0, 0, 0, 0], {"size": size, "tail": "00" * 136}]


def iova(s: State, owner: tuple[str, int]) -> int:
    """Beside a mapping, on one, or anywhere."""
    areas = s.areas.get(owner)
    if areas and s.chance(35):
        start, length = s.rng.choice(areas)
        return int(s.one(start, start + length, start - length, start + PAGE, start + length // 2))
    if s.chance(8):
        return s.rng.choice(TOPS)
    return 0x10_0000 + PAGE * s.rng.randrange(64)


def memory(s: State) -> tuple[str, int]:
    """An address in a buffer, and a length that mostly fits."""
    buffer = s.one("S", "S", "S", "S", "S", "P", "P", "P", "R")
    pages = {"S": 32, "P": 16, "R": 4}[buffer]
    at = s.rng.randrange(pages // 2)
    length = s.one(1, 1, 1, 2, 2, 4, 8)
    if at + length > pages and not s.chance(10):
        length = 1
    offset = at * PAGE + (s.one(1, 8, 2048) if s.chance(2) else 0)
    return f"{buffer}+{offset}", length * PAGE + (s.one(1, -1, 2048) if s.chance(2) else 0)


def map_dma(s: State) -> Call:
    container = _container(s)
    where, length = memory(s)
    bits = flags(s, (READ, 93), (WRITE, 85))
    if s.files.get(container) == "iommufd":
        bits |= READ  # else Linux warns (docs/iommufd-corpus.md)
    elif s.chance(6):
        bits = s.one(VADDR, VADDR, VADDR | READ, 8)
    at = iova(s, (container, 0))
    areas = s.areas.get((container, 0))
    if bits == VADDR and areas and s.chance(80):
        at, length = s.rng.choice(areas)
    value = where if s.chance(96) else s.one(0, 8, "X+16384", "R+12288", 2**64 - PAGE)
    if s.chance(2):
        length = s.one(0, 2**64 - PAGE, 1 << 40)
    return ["MAP_DMA", container, [bits, value, at, length]]


def unmap_dma(s: State) -> Call:
    container = _container(s)
    areas = s.areas.get((container, 0))
    bits = 0 if s.chance(82) else s.one(ALL, ALL, VADDR, VADDR, VADDR | ALL, BITMAP, BITMAP, BITMAP, BITMAP | ALL, 8)
    if bits & ALL and s.chance(85):
        return ["UNMAP_DMA", container, [bits, 0, 0]]
    start, length = s.rng.choice(areas) if areas and s.chance(85) else (iova(s, (container, 0)), PAGE)
    if s.chance(25):
        start, length = s.one(
            (start - 4 * PAGE, 16 * PAGE), (start + PAGE, length), (start, length + PAGE), (start, PAGE),
            (0, 1 << 38), (start + 1, length), (start, 0), (start, 2**64 - start), (2**64 - PAGE, 2 * PAGE),
        )  # fmt: skip
    if bits & BITMAP:
        return ["UNMAP_DMA", container, [bits, start, length], _with_bitmap(s, 48, [], length)]
    return ["UNMAP_DMA", container, [bits, start, length]]


def _with_bitmap(s: State, size: int, words: list[int], length: int) -> dict[str, object]:
    """``struct vfio_bitmap`` behind the call's own fields."""
    unit = PAGE if s.chance(93) else s.one(0, 2048, 2 * PAGE, 3 * PAGE, 1 << 21)
    room = max(8, -(-length // PAGE // 64) * 8) if s.chance(93) else s.one(0, 1, 7, 1 << 28, (1 << 28) + 8, 1 << 40)
    at = "X+0" if s.chance(95) else s.one(0, 8, "R+0")
    return {"size": size if s.chance(95) else size - 8, "words": [*words, unit, room, at], "in": "aa" * 64}


def dirty_pages(s: State) -> Call:
    container = _container(s)
    which = s.one(1, 1, 2, 4, 4, 4, 4) if s.chance(95) else s.one(0, 3, 5, 8, 7)
    if not which & 4:
        return ["DIRTY_PAGES", container, [which]]
    areas = s.areas.get((container, 0))
    start, length = s.rng.choice(areas) if areas and s.chance(85) else (0x10_0000, 64 * PAGE)
    if s.chance(30):
        start, length = s.one((0x10_0000, 64 * PAGE), (0, 1 << 30), (start, PAGE), (start, 0), (start + 1, length))
    return ["DIRTY_PAGES", container, [which], _with_bitmap(s, 48, [start, length], length)]


def checksums(s: State) -> Call:
    return ["sum"]


def pages(s: State) -> Call:
    return ["pages"]


OPS = [
    Op(open_container, "group", 4, ()),
    Op(open_group, "group", 8, ()),
    Op(close, "any", 7, ()),
    Op(group_status, "group", 7, ("group",)),
    Op(set_container, "group", 10, ("group",)),
    Op(unset_container, "group", 4, ("group",)),
    Op(get_device_fd, "group", 10, ("group",)),
    Op(api_version, "group", 1, ("container",)),
    Op(check_extension, "group", 4, ("container",)),
    Op(set_iommu, "group", 6, ("container",)),
    Op(iommu_get_info, "type1", 6, ("typed",)),
    Op(map_dma, "type1", 24, ("typed",)),
    Op(unmap_dma, "type1", 14, ("typed",)),
    Op(dirty_pages, "type1", 10, ("typed",)),
    Op(checksums, "type1", 1, ()),
    Op(pages, "any", 5, ()),
]
