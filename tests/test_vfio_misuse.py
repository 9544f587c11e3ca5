# SPDX-License-Identifier: GPL-2.0-only
"""
Random calls of a program that knows all of VFIO's names and none of its rules. Whatever
it does, the answer is an errno, and when it is gone nothing of it is left.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from vfio_user import EDU, PG, VfioUser, booted

from uvfio.linux.vfio.private import vfio
from uvfio.machine import unplug
from uvfio.runtime.errors import Errno
from uvfio.uapi.vfio import REQUESTS, VFIO_DEVICE_FEATURE

E1000E = "0000:00:02.0"
NODES = (
    "/dev/vfio/vfio",
    "/dev/vfio/1",
    "/dev/vfio/2",
    "/dev/vfio/devices/vfio0",
    "/dev/vfio/devices/vfio1",
    "/dev/iommu",
)
WORDS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 20, 24, 32, 36, 48, PG, 0x10_0000, 0xFEE0_0000, (1 << 32) - 1)
OFFSETS = (0, 4, 8, 0x60, 0x64, 0x80, 0x98, 1 << 40, 3 << 40, 7 << 40, (7 << 40) + 4, (7 << 40) + 0x42, 9 << 40)
STEPS = 300


class Monkey:
    """Makes one random call at a time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.user = VfioUser()
        self.fds: list[int] = []
        self.memory = self.user.mm.mmap(16 * PG)
        self.requests = sorted({request for table in REQUESTS.values() for request in table})
        self.ok = 0

    def fd(self) -> int:
        return self.random.choice(self.fds) if self.fds and self.random.random() < 0.95 else -1

    def step(self) -> None:
        calls: list[Callable[[], object]] = [
            lambda: self.fds.append(self.user.open(self.random.choice(NODES))),
            lambda: self.fds.append(self.user.eventfd()),
            self.close,
            lambda: self.user.set_container(self.fd(), self.fd()),
            lambda: self.user.set_container(self.fd(), self.fd()),
            lambda: self.user.set_iommu(self.fd(), self.random.choice((1, 3))),
            lambda: self.fds.append(self.user.get_device(self.fd(), self.random.choice((EDU, E1000E)))),
            lambda: self.user.bind(self.fd(), self.fd()),
            lambda: self.user.attach(self.fd(), self.user.ioas_alloc(self.fd())),
            lambda: self.user.set_eventfds(self.fd(), self.random.randrange(5), self.fd(), self.fd()),
            lambda: self.user.set_eventfds(self.fd(), self.random.randrange(5), self.fd()),
            lambda: self.user.pwrite(self.fd(), self.random.randbytes(4), self.random.choice(OFFSETS)),
            lambda: self.user.pread(self.fd(), self.random.choice((1, 8, 300)), self.random.choice(OFFSETS)),
            lambda: self.user.map_dma(self.fd(), self.memory, self.random.choice((0, 0x1000)), 2 * PG),
            self.garbage,
            self.garbage,
            self.garbage,
        ]
        try:
            self.random.choice(calls)()
            self.ok += 1
        except Errno:
            pass

    def close(self) -> None:
        if self.fds:
            self.user.close(self.fds.pop(self.random.randrange(len(self.fds))))

    def garbage(self) -> None:
        data = struct.pack("<16I", self.random.choice((16, 24, 32, 48)), *self.random.choices(WORDS, k=15))
        self.user.mm.write(self.memory, data)
        request = self.random.choice(self.requests)
        answer = self.user.ioctl(self.fd(), request, self.memory if self.random.random() < 0.9 else 8)
        if request == VFIO_DEVICE_FEATURE and answer > 0:
            self.fds.append(answer)


@pytest.mark.parametrize("seed", range(20))
def test_a_monkey_leaves_nothing_behind(seed: int) -> None:
    def run() -> None:
        monkey = Monkey(seed)
        for _ in range(STEPS):
            monkey.step()
        assert monkey.ok > STEPS // 20, "it must get somewhere"
        monkey.user.exit()
        assert monkey.user.mm.locked_vm == 0
        for bdf in (EDU, E1000E):
            unplug(bdf)
        statics = vfio()
        assert not statics.group_list
        assert not statics.device_sets
        assert statics.group_ida.empty()
        assert statics.device_ida.empty()

    booted("edu", "e1000e").run(run)
