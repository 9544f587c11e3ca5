# SPDX-License-Identifier: GPL-2.0-only
"""Interrupts: enabled, masked, sent by loopback and by the device, and counted."""

from __future__ import annotations

from corpus.choices import Call, Op

from vfio_corpus.gen_bar import CAUSES, ICS, IMS
from vfio_corpus.state import OPEN_DEVICES, State

NONE, BOOL, EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 16, 32
INTX, MSI, MSIX, ERR, REQ = range(5)
VECTORS = {"edu": (1, 1, 0), "testdev": (0, 0, 0), "e1000e": (1, 1, 5)}


def eventfd(s: State) -> Call:
    return ["eventfd"]


def _call(name: str, flags: int, index: int, start: int, count: int, data: dict[str, object], size: int) -> Call:
    return ["SET_IRQS", name, [flags, index, start, count], {"size": 20 + size, **data}]


def enable(s: State) -> Call:
    name, device = s.target()
    active = [index for index in s.irqs.get(device, {}) if index < ERR]
    if active and s.chance(60):  # one kind at a time
        return _call(name, NONE | TRIGGER, active[0], 0, 0, {}, 0)
    index = (
        s.rng.choice([kind for kind in range(5) if (*VECTORS[device], 1, 1)[kind]])
        if s.chance(85)
        else s.rng.randrange(5)
    )
    most = (*VECTORS[device], 1, 1)[index]
    start = s.rng.randrange(max(most, 1)) if s.chance(25) else 0
    count = s.one(1, 1, most - start, most - start, 6)
    files = [s.file("eventfd", wrong=3) if s.chance(88) else -1 for _ in range(max(count, 1))]
    return _call(name, EVENTFD | TRIGGER, index, start, len(files), {"fds": files}, 4 * len(files))


def disable(s: State) -> Call:
    name, device = s.target()
    enabled = s.irqs.get(device)
    index = s.rng.choice(sorted(enabled)) if enabled and s.chance(70) else s.rng.randrange(5)
    return _call(name, NONE | TRIGGER, index, 0, 0, {}, 0)


def trigger(s: State) -> Call:
    """By loopback: what is enabled, mostly."""
    name, device = s.target()
    enabled = s.irqs.get(device)
    index = s.rng.choice(sorted(enabled)) if enabled and s.chance(85) else s.rng.randrange(5)
    most = (enabled or {}).get(index, 1)
    start = s.rng.randrange(max(most, 1)) if s.chance(40) else 0
    count = max(most - start, 1) if s.chance(80) else s.one(0, 1, 2, 6)
    if s.chance(60):
        return _call(name, NONE | TRIGGER, index, start, count, {}, 0)
    return _call(
        name, BOOL | TRIGGER, index, start, count, {"tail": s.one("01", "00", "0100", "ff") * count}, 2 * count
    )


def mask(s: State) -> Call:
    """And unmask: of INTx mostly, nothing else can."""
    able = [name for name in s.of_files(*OPEN_DEVICES) if INTX in s.irqs.get(s.device_of[name], {})]
    name = s.rng.choice(able) if able and s.chance(85) else s.file(*OPEN_DEVICES)
    index = INTX if s.chance(88) else s.rng.randrange(5)
    action, kind = s.one(MASK, UNMASK, UNMASK), s.one(NONE, NONE, BOOL, EVENTFD)
    if kind == EVENTFD:
        data = {"fds": [s.file("eventfd") if s.chance(75) else s.one(-1, -2)]}
        return _call(name, kind | action, index, 0, 1, data, 4)
    return _call(
        name, kind | action, index, 0, 1, {"tail": s.one("01", "01", "00")} if kind == BOOL else {}, kind == BOOL
    )


def any_irqs(s: State) -> Call:
    """Any combination."""
    name, _device = s.target()
    flags = s.rng.randrange(64) if s.chance(95) else s.one(64, 1 << 31, 0xFF)
    count, start = s.one(0, 0, 1, 1, 1, 2, 5), s.one(0, 0, 0, 1, 4)
    if s.chance(6):
        start, count = s.one((0xFFFF_FFFF, 1), (1, 0xFFFF_FFFF), (0, 0xFFFF_FFFF), (0, 33), (1 << 20, 1))
    files = [s.file("eventfd") for _ in range(min(count, 6))]
    return _call(
        name, flags, s.rng.randrange(6), start, count, {"fds": files}, s.one(4 * count, 4 * count, count, 0) % 2**20
    )


def raise_irq(s: State) -> Call:
    """By the device itself."""
    name, device = s.target(wrong=1)
    if device == "edu":
        at, value = s.one(0x60, 0x60, 0x64), s.one(1, 1, 2, 0x100, 0xFF)
    else:
        at, value = s.one(ICS, ICS, IMS), s.rng.choice(CAUSES)
    return ["pwrite", name, 0, at, value.to_bytes(4, "little").hex()]


def count(s: State) -> Call:
    return ["count", s.rng.choice(s.of_files("eventfd"))] if s.of_files("eventfd") else ["eventfd"]


OPS = [
    Op(eventfd, "irq", 5, ()),
    Op(enable, "irq", 14, ("eventfd",)),
    Op(disable, "irq", 6, ("target",)),
    Op(trigger, "irq", 10, ("eventfd",)),
    Op(mask, "irq", 8, ("target",)),
    Op(any_irqs, "irq", 8, ("target",)),
    Op(raise_irq, "irq", 8, ("target",)),
    Op(count, "irq", 12, ("eventfd",)),
]
