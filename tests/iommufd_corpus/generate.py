# SPDX-License-Identifier: GPL-2.0-only
"""
A session: an opening that leads somewhere deep, random calls of its theme, an end.

The next call is chosen knowing all answers so far, so it runs where the answers are
given: in the reference kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from iommufd_corpus import gen_events, gen_hwpt, gen_ioas
from iommufd_corpus.learn import learn
from iommufd_corpus.state import A0, PAGE, Call, State
from iommufd_corpus.wire import LAYOUTS

OPS = [*gen_ioas.OPS, *gen_hwpt.OPS, *gen_events.OPS]

# Groups that a theme prefers, and how strongly; all others have weight 1.
THEMES: dict[str, dict[str, float]] = {
    "map": {"map": 4, "ioas": 2, "process": 2, "access": 0.5, "viommu": 0.2, "event": 0.2, "pasid": 0.2},
    "dirty": {"dirty": 6, "hwpt": 2, "map": 2, "viommu": 0.1, "event": 0.1, "vfio": 0.2},
    "nest": {"nest": 4, "hwpt": 3, "viommu": 4, "device": 3, "dirty": 0.1, "vfio": 0.2},
    "event": {"event": 6, "queue": 3, "viommu": 4, "nest": 2, "device": 1, "vfio": 0.1, "dirty": 0.1},
    "fault": {"fault": 6, "queue": 4, "nest": 2, "hwpt": 2, "device": 1.5, "pasid": 2, "vfio": 0.1},
    "pasid": {"pasid": 7, "device": 3, "hwpt": 3, "nest": 2, "vfio": 0.1},
    "access": {"access": 6, "map": 3, "process": 2, "viommu": 0.2, "dirty": 0.2},
    "dmabuf": {"dmabuf": 8, "map": 3, "access": 2, "hwpt": 2},
    "vfio": {"vfio": 6, "map": 1, "ioas": 2},
    "huge": {"map": 4, "dirty": 4, "hwpt": 2, "access": 2},
    "garbage": {"garbage": 6},
}
TURNS = (
    *("map", "dirty", "nest", "event", "fault", "pasid", "access", "vfio"),
    *("map", "huge", "nest", "event", "fault", "pasid", "dmabuf", "garbage"),
)

# Who makes what: wanted while there is none of it, less so when there is a lot.
MAKERS = {
    gen_ioas.ioas_alloc: "ioas",
    gen_hwpt.mock_domain: "idev",
    gen_hwpt.hwpt_alloc: "paging",
    gen_hwpt.hwpt_nested: "nested",
    gen_hwpt.viommu_alloc: "viommu",
    gen_hwpt.vdevice_alloc: "vdevice",
    gen_hwpt.hw_queue_alloc: "hw_queue",
    gen_events.fault_alloc: "fault",
    gen_events.veventq_alloc: "veventq",
    gen_events.create_access: "access",
    gen_events.dmabuf_get: "dmabuf",
}


class Session:
    """Calls, one by one; ``answer`` must be told what came of the last."""

    def __init__(self, seed: int, theme: str = "") -> None:
        self.seed = seed
        self.theme = theme or TURNS[seed % len(TURNS)]
        self.state = State(seed, self.theme)
        self.length = self.state.rng.randrange(60, 300)
        self.calls = self._calls()

    @property
    def huge(self) -> bool:
        return self.theme == "huge"

    def answer(self, call: Call, answer: Any) -> None:
        learn(self.state, call, answer)

    def _calls(self) -> Iterator[Call]:
        yield ["open"]
        yield from self._opening()
        for _ in range(self.length):
            call = self._next()
            if call[0] in LAYOUTS and self.state.chance(12 if self.theme == "garbage" else 5):
                call = gen_events.spoilt(self.state, call)
            yield from self._before(call)
            yield call
        yield from self.end()

    def _before(self, call: Call) -> Iterator[Call]:
        """
        A device must not go while a PASID is attached: Linux 7.3.4 warns of it and
        leaks the device (docs/iommufd-corpus.md), and its answers are then of no use.
        """
        if call[0] == "DESTROY" and self.state.kinds.get(call[1][0]) == "stdev":
            for pasid in sorted(self.state.pasids.get(call[1][0], ())):
                yield ["PASID_DETACH", [call[1][0], 0, pasid]]

    def _next(self) -> Call:
        prefer = THEMES[self.theme]
        present = self.state.present()
        op = self.state.op(OPS, present, lambda op: op.weight * prefer.get(op.group, 1) * self._want(op.make))
        return op.make(self.state)

    def _want(self, make: Callable[[State], Call]) -> float:
        kind = MAKERS.get(make)
        if kind is None:
            return 1
        number = len(self.state.of(kind)) + len(self.state.of_files(kind))
        return 4 if not number else 1 if number < 4 else 0.2

    def _opening(self) -> Iterator[Call]:
        state, theme = self.state, self.theme
        if state.chance(5):
            return  # from nothing
        yield ["IOAS_ALLOC", [0, 0]]
        ioas = state.id("ioas", wrong=0)
        if theme in ("dirty", "huge") or state.chance(15):
            yield ["OPTION", [1, 0, 0, ioas, int(theme == "huge")]]
        if state.chance(30):
            yield from self._maps()
        if theme in ("garbage", "vfio") and state.chance(60):
            yield ["VFIO_IOAS", [ioas, 1, 0]]
        for _ in range(state.one(0, 1, 1, 2)):
            yield ["MOCK_DOMAIN_FLAGS", [ioas, 0, 0, 0, 0, 4 if theme == "pasid" else state.one(0, 4)]]
        yield from self._maps()
        if not state.of("idev"):
            return
        idev = state.id("idev", wrong=0)
        if theme == "dirty":
            yield ["HWPT_ALLOC", [2, idev, ioas, 0, 0, 0, 0, 0, 0, 0]]
            if state.chance(80):
                yield ["HWPT_SET_DIRTY_TRACKING", [1, state.id("paging"), 0]]
            yield ["IOAS_MAP", [7, ioas, 0, "S+0", 8 * PAGE, A0 + 0x8_0000]]
        if theme in ("nest", "event", "fault", "pasid"):
            yield ["HWPT_ALLOC", [1 | 8 * (theme == "pasid"), idev, ioas, 0, 0, 0, 0, 0, 0, 0]]
        if theme in ("nest", "event", "fault") and state.of("parent"):
            yield ["VIOMMU_ALLOC", [0, gen_hwpt.MOCK, idev, state.id("parent", wrong=0), 0, 0, 0, 0]]
            yield ["VDEVICE_ALLOC", [state.id("viommu"), idev, 0, 0x99]]
            yield ["FAULT_QUEUE_ALLOC", [0, 0, 0]]
            under, bits = state.id("viommu", "parent", wrong=0), 4 * (theme == "fault")
            words = {"in": "efbead0b"}
            fault = state.id("fault")
            yield ["HWPT_ALLOC", [bits, idev, under, 0, 0, gen_hwpt.SELFTEST, 4, "X+0", bits and fault, 0], words]
            yield gen_hwpt.replace(state)
        if theme == "pasid" and state.of("parent", "paging"):
            yield ["MOCK_DOMAIN_REPLACE", [state.id("stdev", wrong=0), 0, state.id("parent")]]
        if theme == "event" and state.of("viommu"):
            yield ["VEVENTQ_ALLOC", [0, state.id("viommu"), 0xBEEFBEEF, 2, 0, 0, 0]]

    def _maps(self) -> Iterator[Call]:
        for _ in range(self.state.one(0, 1, 2, 4)):
            yield gen_ioas.ioas_map(self.state)

    def end(self) -> Iterator[Call]:
        """Close everything in any order; then no page may be pinned."""
        state = self.state
        yield ["sum"]
        yield ["vmpin"]
        for stdev in state.of("stdev"):
            for pasid in sorted(state.pasids.get(stdev, ())):
                yield ["PASID_DETACH", [stdev, 0, pasid]]
        for buffer in sorted(state.dropped):
            yield ["fresh", buffer]
        names = [*state.files, *state.views]
        state.rng.shuffle(names)
        for name in names:
            yield ["munmap" if name.startswith("v") else "close", name]
        yield ["vmpin"]
        yield ["open"]
        for buffer, pages in (("S", 32), ("P", 16), ("F", 16), ("R", 4)):
            yield ["MD_CHECK_REFS", [0, 0, pages * PAGE, f"{buffer}+0", 0]]
        yield ["IOAS_ALLOC", [0, 0]]
        yield ["close", "i"]
