# SPDX-License-Identifier: GPL-2.0-only
"""
A session: an opening that leads somewhere deep, random calls of its theme, an end.

The next call is chosen knowing all answers so far, so it runs where the answers are
given: in the reference kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corpus.choices import Call, Op

from vfio_corpus import gen_bar, gen_cdev, gen_config, gen_group, gen_info, gen_irq, gen_sysfs
from vfio_corpus.learn import QUIET, learn
from vfio_corpus.state import DEVICES, OPEN_DEVICES, State
from vfio_corpus.wire import LAYOUTS

OPS = [*gen_group.OPS, *gen_cdev.OPS, *gen_info.OPS, *gen_config.OPS, *gen_bar.OPS, *gen_irq.OPS, *gen_sysfs.OPS]

# Groups that a theme prefers, and how strongly; all others have weight 1.
FEW = {"config": 0.2, "bar": 0.2, "irq": 0.2, "sysfs": 0.1, "ioeventfd": 0.1, "dma": 0.2, "info": 0.2, "feature": 0.2}
DEEP = {"group": 0.1, "cdev": 0.1, "type1": 0.1, "iommufd": 0.1, "sysfs": 0.05, "any": 0.2, "garbage": 0.2}
NEVER = dict.fromkeys(("config", "sysfs", "bar", "dma", "ioeventfd"), 0.0)
THEMES: dict[str, dict[str, float]] = {
    "group": {**FEW, "group": 6, "type1": 0.5, "cdev": 2},
    "type1": {**FEW, "type1": 5, "dma": 1, "cdev": 0.2, "iommufd": 0.2},
    "cdev": {**FEW, "cdev": 5, "iommufd": 4, "dma": 1, "group": 0.5},
    "config": {**DEEP, "config": 5, "irq": 0.5, "reset": 0.5},
    "bar": {**DEEP, "bar": 4, "ioeventfd": 2, "config": 0.4, "irq": 0.4},
    "irq": {**DEEP, "irq": 5, "config": 0.3, "bar": 0.1, "feature": 0.3},
    "info": {**DEEP, "info": 4, "mmap": 4, "feature": 3, "reset": 3, "irq": 0.3},
    "dma": {**DEEP, "dma": 6, "type1": 1, "iommufd": 1, "bar": 0.3, "config": 0.2},
    "sysfs": {**FEW, "sysfs": 6, "group": 2, "cdev": 2},
    "garbage": {"garbage": 12},
    # Behind a bridge, addresses and lines are as the firmware likes them: nothing that shows them is asked.
    "bus": {**NEVER, "reset": 8, "group": 3, "cdev": 3, "info": 1.5, "irq": 1.5},
}
BUS = range(132, 156)  # seeds of that theme
TURNS = ("group", "config", "type1", "irq", "cdev", "bar", "config", "info", "irq", "sysfs", "type1", "dma", "garbage")
BY_GROUP = {"group": 96, "type1": 96, "cdev": 0}  # percent of devices that are opened through their group
SIZES = (0, 4, 7, 8, 11, 12, 15, 16, 19, 20, 24, 28, 31, 32, 40, 48, 64, 96, 4096, 0xFFFF_FFFF)
REQUESTS = (0x3B63, 0x3B7A, 0xC0003B6B, 0x3B67, 0x3B85, 0x3B77)
# Where a file's number is: it means nothing to another request, and no other number may mean a file.
NUMBERED = {"GROUP_SET_CONTAINER": 0, "BIND_IOMMUFD": 1, "IOEVENTFD": 3}


class Session:
    """Calls, one by one; ``answer`` must be told what came of the last."""

    def __init__(self, seed: int, theme: str = "") -> None:
        self.seed = seed
        self.theme = theme or ("bus" if seed in BUS else TURNS[seed % len(TURNS)])
        self.state = State(seed, self.theme)
        self.length = self.state.rng.randrange(60, 260)
        self.calls = self._calls()

    def answer(self, call: Call, answer: Any) -> None:
        learn(self.state, call, answer)

    def _calls(self) -> Iterator[Call]:
        yield from self._opening()
        for _ in range(self.length):
            call = self._next()
            if call[0] in LAYOUTS and self.state.chance(5):
                call = self._spoilt(call)
            yield from self._before(call)
            if self.state.last != "EIO" or not self._enables_intx(call):
                yield call
            if call[0] in ("driver_write", "sysfs_write", "drivers_probe"):
                for device in DEVICES:
                    yield ["driver", device]
        yield from self._end()

    def _before(self, call: Call) -> Iterator[Call]:
        """Registers are as known, and no line is up when its handler comes: QEMU's IOAPIC would forget it."""
        state = self.state
        if call[0] in ("pread", "pwrite", "IOEVENTFD", "signal", "SET_IRQS", "factorial", "edu_dma"):
            for file in state.of_files(*OPEN_DEVICES):
                if state.device_of[file] in state.stale:
                    yield from ([name, file, *rest] for name, *rest in QUIET[state.device_of[file]])
        for name in self._watched(call):
            yield ["count", name]  # what it holds already is taken earlier under uvfio run (live/eventfd.py)
        device = state.device_of.get(call[1]) if len(call) > 1 else None
        state.last = 0
        if self._enables_intx(call) and device in ("edu", "e1000e") and state.files.get(call[1]) in OPEN_DEVICES:
            yield ["pwrite", call[1], 0, 0x64 if device == "edu" else 0xC0, "ffffffff"]

    def _watched(self, call: Call) -> list[str]:
        """Eventfds that the call has watched, perhaps."""
        named: list[Any] = []
        if call[0] == "IOEVENTFD":
            named = [call[2][3]]
        elif call[0] == "SET_IRQS" and call[2][0] & 0x14 == 0x14 and len(call) > 3:
            named = call[3].get("fds", [])
        return [name for name in named if self.state.files.get(name) in ("eventfd", "doorbell")]

    def _enables_intx(self, call: Call) -> bool:
        return call[0] == "SET_IRQS" and call[2][0] & 0x24 == 0x24 and call[2][1] == 0

    def _next(self) -> Call:
        prefer, present = THEMES[self.theme], self.state.present()
        op: Op = self.state.op(OPS, present, lambda op: op.weight * prefer.get(op.group, 1))
        return op.make(self.state)

    def _spoilt(self, call: Call) -> Call:
        how = dict(call[3]) if len(call) > 3 else {}
        request = LAYOUTS[call[0]].request
        values, how = self.state.spoilt(call[2], how, SIZES, (request,) if call[0] in NUMBERED else REQUESTS)
        at = NUMBERED.get(call[0])
        if at is not None and isinstance(values[at], int) and values[at] >= 0:
            values[at] = "h99"
        return [*call[:2], values, how] if how else [*call[:2], values]

    def _opening(self) -> Iterator[Call]:
        state = self.state
        if state.chance(4):
            return  # from nothing
        for device in state.rng.sample(DEVICES, state.one(1, 2, 2, 3)):
            if state.chance(BY_GROUP.get(self.theme, 50)):
                yield from self._by_group(device)
            else:
                yield from self._by_cdev(device)
        for _ in range(state.one(1, 2, 3)):
            yield ["eventfd"]

    def _by_group(self, device: str) -> Iterator[Call]:
        state = self.state
        if not state.of_files("container") or state.chance(25):
            yield ["open", "container"]
        yield ["open", "group", device]
        if not state.of_files("container") or not state.of_files("group"):
            return
        group, container = state.of_files("group")[-1], state.of_files("container")[-1]
        yield ["GROUP_SET_CONTAINER", group, [container]]
        if container not in state.types:
            yield ["SET_IOMMU", container, state.one(1, 3, 3, 3, 3)]
        yield ["GROUP_GET_DEVICE_FD", group, state.addresses[device]]

    def _by_cdev(self, device: str) -> Iterator[Call]:
        state = self.state
        if not state.of_files("iommufd") or state.chance(15):
            yield ["open", "iommufd"]
        iommufd = state.of_files("iommufd")[-1]
        yield ["open", "cdev", device]
        cdev = state.of_files("cdev")[-1]
        yield ["BIND_IOMMUFD", cdev, [0, iommufd, 0, 0], {"size": 16}]
        yield ["IOAS_ALLOC", iommufd, [0, 0]]
        yield ["ATTACH_PT", cdev, [0, state.owned(iommufd, "ioas", wrong=0), 0], {"size": 12}]

    def _end(self) -> Iterator[Call]:
        """What was written where, and everything closed in any order; then no page may be pinned."""
        state = self.state
        yield ["sum"]
        for name in state.of_files("eventfd", "doorbell"):
            yield ["count", name]
        names = [*state.files, *state.views]
        state.rng.shuffle(names)
        for name in names:
            yield ["munmap" if name.startswith("v") else "close", name]
        yield ["pages"]
