# SPDX-License-Identifier: GPL-2.0-only
"""Calls on fault and event queues, PASIDs, accesses, dma-bufs, VFIO's calls, and garbage."""

from __future__ import annotations

import struct
from typing import Any

from corpus.choices import Op

from iommufd_corpus.gen_hwpt import HWPTS
from iommufd_corpus.gen_ioas import part
from iommufd_corpus.state import PAGE, Call, State

SIZES = (0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 47, 67, 68, 71, 73, 96)
REQUESTS = (0x3BA2, 0x3B7F, 0xC0003B85, 0x3B81, 0x3B86)


def fault_alloc(s: State) -> Call:
    return ["FAULT_QUEUE_ALLOC", [int(s.chance(3)), 0, 0]]


def trigger_iopf(s: State) -> Call:
    pasid = s.one(0, 0, 1, 1, 2, 100, 1024) if s.theme == "pasid" else s.one(0, 0, 0, 0, 1, 1, 100)
    return [
        "TRIGGER_IOPF",
        [s.one(0, 99), 0, s.bound("fault"), pasid, s.one(1, 2), s.one(1, 3, 15), s.one(0, 0xDEADBEAF)],
    ]


def veventq_alloc(s: State) -> Call:
    kind = 0xBEEFBEEF if s.chance(90) else s.one(0, 1, 2)
    depth = s.one(1, 2, 2, 3, 1 << 19) if s.chance(95) else s.one(0, (1 << 19) + 1)
    return ["VEVENTQ_ALLOC", [int(s.chance(1)), s.id("viommu"), kind, depth, 0, 0, int(s.chance(1))]]


def trigger_vevent(s: State) -> Call:
    return ["TRIGGER_VEVENT", [0, 0, s.bound("viommu")]]


def read(s: State) -> Call:
    name = s.pending[-1] if s.pending and s.chance(70) else s.file("fault", "veventq", wrong=3)
    name = "memfd" if name == "i" else name
    fault = s.files.get(name) == "fault"
    count = s.one(40, 40, 80, 400) if fault else s.one(12, 24, 24, 36, 120)
    return ["read", name if name != "memfd" else "h99", count if s.chance(88) else s.one(0, 7, 8, 13, 20, 41)]


def write(s: State) -> Call:
    using = {info.get("fault") for info in s.info.values()}
    used = [s.info[n]["file"] for n in s.of("fault") if n in using and s.info[n]["file"] in s.files]
    name = s.rng.choice(used) if used and s.chance(85) else s.file("fault", wrong=0)
    if s.files.get(name) not in ("fault", "veventq") and not s.chance(10):
        return fault_alloc(s)
    name = "h99" if name in ("memfd", "i") else name
    cookies = s.cookies[-3:] or [1]
    records = [
        (s.rng.choice(cookies) if s.chance(93) else s.one(0, 9), s.one(0, 0, 0, 1)) for _ in range(s.one(1, 1, 2))
    ]
    data = b"".join(struct.pack("<2I", *r) for r in records)
    if s.chance(6):
        data = s.one(b"", data[:7], struct.pack("<2I", records[0][0], 2))
    return ["write", name, data.hex()]


def poll(s: State) -> Call:
    return ["poll", s.file("fault", "veventq", wrong=0)] if s.of_files("fault", "veventq") else fault_alloc(s)


def close(s: State) -> Call:
    name = s.file("fault", "veventq", "access", "dmabuf", wrong=2)
    return ["close", name if name not in ("memfd", "i") else "h99"]


def _pasid(s: State) -> int:
    return int(s.one(1, 2, 100, 1024) if s.chance(92) else s.one(0, 1 << 20, (1 << 20) - 1))


def pasid_attach(s: State) -> Call:
    name = s.one("PASID_ATTACH", "PASID_ATTACH", "PASID_REPLACE")
    stdevs = [n for n in s.of("stdev") if s.info[n]["pasid"]]
    stdev = s.rng.choice(stdevs) if stdevs and s.chance(85) else s.id("stdev")
    able = [n for n in s.of(*HWPTS) if s.info[n]["flags"] & 8]
    hwpt = s.rng.choice(able) if able and s.chance(85) else s.id("ioas", *HWPTS)
    return [name, [stdev, 0, _pasid(s), hwpt]]


def pasid_detach(s: State) -> Call:
    return ["PASID_DETACH", [s.id("stdev"), 0, _pasid(s)]]


def pasid_check(s: State) -> Call:
    known = [(stdev, pasid, hwpt) for stdev, those in s.pasids.items() for pasid, hwpt in those.items()]
    if known and s.chance(60):
        stdev, pasid, hwpt = s.rng.choice(known)
        return ["PASID_CHECK_HWPT", [stdev, 0, pasid, s.one(hwpt, hwpt, hwpt, 0)]]
    return ["PASID_CHECK_HWPT", [s.id("stdev"), 0, _pasid(s), s.one(0, s.id(*HWPTS), s.id(*HWPTS))]]


def create_access(s: State) -> Call:
    return ["CREATE_ACCESS", [s.id("ioas"), 0, 0, s.one(0, 1, 1, 1) if s.chance(97) else 2]]


def _through(s: State, access: str) -> Any:
    """The area that an access is to touch."""
    ioas = [i["ioas"] for i in s.info.values() if "ioas" in i and i.get("file") == access]
    return (s.area(ioas[0]) if ioas else None) or s.any_area()


def access_pages(s: State) -> Call:
    access = s.file("access", wrong=3)
    area = _through(s, access)
    if area is None:
        return ["ACCESS_PAGES", [access, 0, 0, 0, s.iova(), PAGE, 0]]
    start, length = part(s, area)
    where: Any = 0
    if s.chance(40) and area.buffer != "0":
        where = f"{area.buffer}+{area.offset + start - area.iova + (PAGE if s.chance(8) else 0)}"
    length = s.one(0, (1 << 24) + 1, 1 << 24) if s.chance(2) else length
    if s.chance(2):  # the n-th area, and an offset in it
        return ["ACCESS_PAGES", [access, 0, 1 << 16, 0, s.one(0, 1, 9) | PAGE * s.one(0, 1) << 32, PAGE, 0]]
    return ["ACCESS_PAGES", [access, 0, s.one(0, 0, 1) if s.chance(98) else 2, 0, start, length, where]]


def drop_pages(s: State) -> Call:
    access = s.file("access", wrong=3)
    items = s.items.get(access) or [0]
    return ["DESTROY_ACCESS_PAGES", [access, 0, s.rng.choice(items[-4:]) if s.chance(93) else 77]]


def access_rw(s: State) -> Call:
    access = s.file("access", wrong=3)
    area = _through(s, access)
    iova = area.iova + s.one(0, 0, 5, PAGE - 3, PAGE) if area is not None else s.iova()
    length = s.one(1, 8, 16, 63, PAGE, PAGE + 7, 2 * PAGE) if s.chance(98) else s.one(0, (1 << 24) + 1)
    flags = s.one(0, 0, 1, 1, 4, 5) if s.chance(98) else 2
    how = {"in": s.one("11", "a5a5", "0102030405060708") * 4} if flags & 1 else {"out": min(length, 2 * PAGE)}
    at = "X+0" if s.chance(96) else s.one(8, "R+0")
    return ["ACCESS_RW", [access, 0, iova, length, at, flags], how]


def access_replace(s: State) -> Call:
    return ["ACCESS_REPLACE_IOAS", [s.file("access", wrong=3), 0, s.id("ioas")]]


def dmabuf_get(s: State) -> Call:
    length = s.one(PAGE, 4 * PAGE, 16 * PAGE, 100) if s.chance(94) else s.one(0, 512 * PAGE, 512 * PAGE + 1)
    return ["DMABUF_GET", [0, 0, length, s.one(0, 0o2000000, 0o2000002)]]


def dmabuf_revoke(s: State) -> Call:
    return ["DMABUF_REVOKE", [0, 0, s.file("dmabuf", wrong=8), s.one(0, 1, 1)]]


def vfio_plain(s: State) -> Call:
    name = s.one("VFIO_API", "VFIO_EXTENSION", "VFIO_EXTENSION", "VFIO_SET_IOMMU", "VFIO_SET_IOMMU")
    return [name, 0 if name == "VFIO_API" else s.one(1, 1, 3, 3, 3, 4, 8, 9) if s.chance(90) else s.rng.randrange(14)]


def vfio_map(s: State) -> Call:
    buffer, offset, length = s.memory()
    return ["VFIO_MAP_DMA", [s.one(3, 3, 1, 2) if s.chance(98) else 4, f"{buffer}+{offset}", s.iova(), length]]


def vfio_unmap(s: State) -> Call:
    area = s.any_area()
    if s.chance(8):
        return ["VFIO_UNMAP_DMA", s.one([2, 0, 0], [2, PAGE, 0], [4, 0, 0], [1, s.iova(), PAGE])]
    return ["VFIO_UNMAP_DMA", [0, *(part(s, area) if area is not None and s.chance(70) else (s.iova(), s.length()))]]


def vfio_info(s: State) -> Call:
    size = s.one(24, 24, 56, 80, 96, 16, 20, 120)
    return ["VFIO_GET_INFO", [s.one(0, 3), 0, 0, 0], {"size": size}]


def vfio_other(s: State) -> Call:
    return ["VFIO_DIRTY_PAGES", [s.one(1, 2, 4)]]


def garbage(s: State) -> Call:
    number = s.one(0x00, 0x64, 0x66, 0x67, 0x6A, 0x73, 0x7F, 0x80, 0x85, 0x95, 0x96, 0x9A, 0x9F, 0xA0, 0xA1, 0xFF)
    request = s.one(0x3B00, 0x3B00, 0x3B00, 0xC0003B00, 0x00083B00, 0x4100) | number
    arg = s.one("A+0", "A+0", "A+0", 0, 8, "R+0", "A+8190")
    return [
        "raw",
        s.one("i", "i", "i", s.file("access", wrong=0)),
        request,
        arg,
        s.one("", "08", "2c", "48", "0002", "ffffffff"),
    ]


def spoilt(s: State, call: Call) -> Call:
    """A call that is nearly right."""
    values, how = s.spoilt(call[1], call[2] if len(call) > 2 else {}, SIZES, REQUESTS)
    return [call[0], values, how] if how else [call[0], values]


OPS = [
    Op(fault_alloc, "fault", 6, ()),
    Op(trigger_iopf, "fault", 18, ("faulty",)),
    Op(read, "queue", 20, ("fault", "veventq")),
    Op(write, "fault", 18, ("cookies",)),
    Op(poll, "queue", 8, ("fault", "veventq")),
    Op(close, "any", 5, ()),
    Op(veventq_alloc, "event", 8, ("viommu",)),
    Op(trigger_vevent, "event", 16, ("virtual",)),
    Op(pasid_attach, "pasid", 24, ("stdev",)),
    Op(pasid_detach, "pasid", 8, ("stdev",)),
    Op(pasid_check, "pasid", 8, ("stdev",)),
    Op(create_access, "access", 7, ("ioas",)),
    Op(access_pages, "access", 20, ("access",)),
    Op(drop_pages, "access", 8, ("access",)),
    Op(access_rw, "access", 18, ("access",)),
    Op(access_replace, "access", 5, ("access",)),
    Op(dmabuf_get, "dmabuf", 4, ()),
    Op(dmabuf_revoke, "dmabuf", 3, ("dmabuf",)),
    Op(vfio_plain, "vfio", 10, ("compat",)),
    Op(vfio_map, "vfio", 16, ("compat",)),
    Op(vfio_unmap, "vfio", 12, ("compat",)),
    Op(vfio_info, "vfio", 6, ("compat",)),
    Op(vfio_other, "vfio", 1, ()),
    Op(garbage, "garbage", 4, ()),
]
