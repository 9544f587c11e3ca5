# SPDX-License-Identifier: GPL-2.0-only
"""
One IOAS with very many areas: what a call costs with 10^6 against one with 10^3.

    python bench/bench_iommufd.py [LARGE]

Pages are mapped one by one in random order, then unmapped in another; then mapped where the
kernel likes, unmapped at random, and in a full IOAS one is unmapped and mapped again.
Processor time, in process: what the supervisor and the client take on top is the same for
both sizes. Exits 1 when a ratio is above the limit.
"""

from __future__ import annotations

import gc
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from uvfio.linux.iommufd import main as iommufd
from uvfio.linux.kernel.user import UserProcess
from uvfio.runtime.collector import seldom_collecting
from uvfio.runtime.live import LiveRuntime
from uvfio.uapi.iommufd import IOMMU_IOAS_ALLOC, IOMMU_IOAS_MAP, IOMMU_IOAS_UNMAP

SMALL = 1000
ROUNDS = 50  # with so few, a round is too short to measure
LIMIT = 2.0
PAGE = 4096
READ_WRITE, FIXED = 6, 7


class Ioas:
    """A process with an IOAS of its own."""

    def __init__(self) -> None:
        self.process = UserProcess()
        self.fd = self.process.open("/dev/iommu")
        mm = self.process.mm
        self.args = mm.mmap(64)
        self.va = mm.mmap(PAGE)
        mm.write(self.args, struct.pack("<3I", 12, 0, 0))
        self.process.ioctl(self.fd, IOMMU_IOAS_ALLOC, self.args)
        self.id = struct.unpack("<3I", mm.read(self.args, 12))[2]

    def map(self, iova: int, flags: int = FIXED) -> int:
        mm = self.process.mm
        mm.write(self.args, struct.pack("<4I3Q", 40, flags, self.id, 0, self.va, PAGE, iova))
        self.process.ioctl(self.fd, IOMMU_IOAS_MAP, self.args)
        return int.from_bytes(mm.read(self.args + 32, 8), "little")

    def unmap(self, iova: int) -> None:
        self.process.mm.write(self.args, struct.pack("<2I2Q", 24, self.id, iova, PAGE))
        self.process.ioctl(self.fd, IOMMU_IOAS_UNMAP, self.args)

    def again(self, iova: int) -> None:
        self.unmap(iova)
        assert self.map(0, READ_WRITE) == iova


def microseconds(call: Callable[[int], Any], addresses: Iterable[int], n: int) -> float:
    started = time.process_time()
    for each in addresses:
        call(each)
    return (time.process_time() - started) / n * 1e6


def measure(n: int) -> dict[str, float]:
    """Microseconds of a call of each kind, with *n* areas."""
    ioas, shuffled = Ioas(), random.Random(1)
    addresses = [PAGE * each for each in range(1, n + 1)]
    found: dict[str, float] = {}
    for kind, where in (("map, fixed IOVA", FIXED), ("map, automatic IOVA", READ_WRITE)):
        shuffled.shuffle(addresses)
        found[kind] = microseconds(lambda iova, where=where: ioas.map(iova, where), addresses, n)
        shuffled.shuffle(addresses)
        if where == READ_WRITE:
            some = addresses[: min(n, 20_000)]
            found["unmap and map again"] = microseconds(ioas.again, some, len(some)) / 2
        found[f"unmap after {kind}"] = microseconds(ioas.unmap, addresses, n)
    ioas.process.exit()
    return found


def memory_per_area(n: int) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ioas = Ioas()
    for iova in range(PAGE, (n + 1) * PAGE, PAGE):
        ioas.map(iova)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ioas.process.exit()
    return used * 1024 / n


def run(large: int) -> int:
    iommufd.iommufd_init()
    memory = memory_per_area(large)
    gc.collect()
    rounds = [measure(SMALL) for _ in range(ROUNDS)]
    small = {kind: sum(each[kind] for each in rounds) / ROUNDS for kind in rounds[0]}
    kept = True
    for kind, cost in measure(large).items():
        ratio = cost / small[kind]
        kept = kept and ratio <= LIMIT
        what = f"{small[kind]:6.2f} us at {SMALL}, {cost:6.2f} us at {large}"
        print(f"{kind:32} {what}   {ratio:5.2f} x   (limit {LIMIT} x)")
    print(f"memory of an area                {memory:6.0f} bytes")
    return 0 if kept else 1


def main() -> int:
    runtime = LiveRuntime()
    runtime.machine = SimpleNamespace(statics={}, runtime=runtime)
    large = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with seldom_collecting():  # as in the supervisor
        status: int = runtime.run_function(lambda: run(large), "bench")
    return status


if __name__ == "__main__":
    sys.exit(main())
