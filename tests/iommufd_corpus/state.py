# SPDX-License-Identifier: GPL-2.0-only
"""
What the generator believes to exist, learnt from the answers, and choices from it.

It may be wrong (a hwpt that vanished with its last device): then a call is made on
something stale, which is wanted now and then anyway.
"""

from __future__ import annotations

from typing import Any

from corpus.choices import HALF as HALF
from corpus.choices import PAGE as PAGE
from corpus.choices import Call as Call
from corpus.choices import Choices

A0 = 0x100_0000  # the mock aperture
A1 = 0x7FFF_FFFF


class Area:
    """A mapping: where it is and what memory is behind it (a buffer's name, or a file's)."""

    def __init__(self, iova: int, length: int, buffer: str, offset: int) -> None:
        self.iova, self.length, self.buffer, self.offset = iova, length, buffer, offset


class State(Choices):
    """Objects by id, files by name, and the session's random numbers."""

    def __init__(self, seed: int, theme: str) -> None:
        super().__init__(seed)
        self.theme = theme
        self.fine = self.chance(30)  # places and lengths smaller than a page
        self.kinds: dict[int, str] = {}
        self.info: dict[int, dict[str, Any]] = {}
        self.gone: list[int] = []
        self.areas: dict[int, list[Area]] = {}
        self.views: list[str] = []
        self.regions: list[tuple[int, int]] = []
        self.items: dict[str, list[int]] = {}  # access -> items
        self.pending: list[str] = []  # fault queues that should have something
        self.cookies: list[int] = []
        self.dropped: set[str] = set()
        self.compat = False  # an IOAS serves VFIO's calls
        self.pasids: dict[int, dict[int, int]] = {}  # stdev -> pasid -> the hwpt that may be attached

    # ---- choices

    def of(self, *kinds: str) -> list[int]:
        return [n for n, kind in self.kinds.items() if kind in kinds]

    def id(self, *kinds: str, wrong: float = 5) -> int:
        """An object of one of *kinds*; sometimes of another, gone, or none at all."""
        right = self.of(*kinds)
        if right and not self.chance(wrong):
            # The newest are where it gets deep.
            return right[-1] if self.chance(40) else self.rng.choice(right)
        return int(self.rng.choice([0, 99, 0xFFFF_FFFF, *self.gone[-3:], *self.kinds]))

    def file(self, *kinds: str, wrong: float = 5) -> str:
        right = [name for name, kind in self.files.items() if kind in kinds]
        if right and not self.chance(wrong):
            return right[-1] if self.chance(40) else self.rng.choice(right)
        return str(self.rng.choice(["memfd", "h99", "i", *self.files]))

    def present(self) -> set[str]:
        """What there is to make calls on."""
        some = {*self.kinds.values(), *self.files.values()}
        some |= {"faulty"} if self.can_report("fault") else set()
        some |= {"virtual"} if self.can_report("viommu") else set()
        words = ("regions", "views", "compat", "cookies", "dropped", "pending")
        return some | {word for word in words if getattr(self, word)}

    def tracked(self) -> int:
        """A hwpt that can track dirty pages."""
        able = [n for n in self.of("paging", "parent") if self.info[n]["flags"] & 2]
        return self.rng.choice(able) if able and self.chance(88) else self.id("paging", "parent", "auto", "nested")

    def can_report(self, what: str) -> list[int]:
        """Devices whose page table has a fault queue, or comes from a vIOMMU."""
        able = []
        for idev in self.of("idev"):
            at = self.info.get(self.info.get(self.info[idev]["stdev"], {}).get("at", 0), {})
            if at.get("fault") if what == "fault" else self.kinds.get(at.get("pt", 0)) == "viommu":
                able.append(idev)
        return able

    def bound(self, what: str) -> int:
        """A device; preferably one that can report *what*."""
        able = self.can_report(what)
        return self.rng.choice(able) if able and self.chance(90) else self.id("idev")

    def area(self, ioas: int) -> Area | None:
        areas = self.areas.get(ioas)
        return self.rng.choice(areas) if areas else None

    def any_area(self) -> Area | None:
        every = [area for areas in self.areas.values() for area in areas]
        return self.rng.choice(every) if every else None

    def ioas_of(self, hwpt: int) -> int:
        """The IOAS under a hwpt."""
        seen = 0
        while self.kinds.get(hwpt) not in ("ioas", None) and seen < 5:
            hwpt, seen = self.info.get(hwpt, {}).get("pt", 0), seen + 1
        return hwpt

    def iova(self) -> int:
        """Somewhere in the aperture, mostly on a page."""
        step = self.one(PAGE, PAGE, PAGE, HALF) if self.fine else PAGE
        return A0 + step * self.rng.randrange(48)

    def length(self) -> int:
        if self.fine and self.chance(25):
            return int(self.one(HALF, 3 * HALF))
        return int(self.one(PAGE, PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE, 8 * PAGE, 16 * PAGE))

    def memory(self) -> tuple[str, int, int]:
        """A buffer, an offset in it, and a length that mostly fits."""
        if self.theme == "huge" and self.chance(70):
            offset = self.one(0, 0, 0, PAGE, 1 << 16, 1 << 20)
            return "H", offset, self.one(1 << 21, 1 << 20, 1 << 16, PAGE, 1 << 19, 3 * PAGE)
        buffer = self.one("S", "S", "S", "S", "S", "P", "P", "P", "F", "F", "R")
        pages = {"S": 32, "P": 16, "F": 16, "R": 4}[buffer]
        offset = PAGE * self.rng.randrange(min(pages, 8)) + (self.one(0, 0, HALF) if self.fine else 0)
        length = self.length()
        if offset + length > pages * PAGE and not self.chance(10):
            length = PAGE
        return buffer, offset, length

    # ---- what happened

    def add(self, number: int, kind: str, **info: Any) -> None:
        self.kinds[number] = kind
        self.info[number] = info
        if number in self.gone:
            self.gone.remove(number)

    def remove(self, number: int) -> None:
        if self.kinds.pop(number, None) is not None:
            self.gone.append(number)
        info = self.info.pop(number, {})
        self.areas.pop(number, None)
        for other in [n for n, i in self.info.items() if i.get("stdev") == number or i.get("idev") == number]:
            if self.kinds.get(other) in ("idev", "vdevice"):
                self.remove(other)
        if info.get("view"):
            self.regions.remove(info["view"])

    def unmapped(self, ioas: int, iova: int, length: int) -> None:
        areas = self.areas.get(ioas, [])
        self.areas[ioas] = [a for a in areas if not (iova <= a.iova and a.iova + a.length <= iova + length)]
