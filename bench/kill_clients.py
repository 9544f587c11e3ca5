# SPDX-License-Identifier: GPL-2.0-only
"""
Kill clients at random instants, and look for what is left in the supervisor.

    python bench/kill_clients.py [CYCLES [SEED]]

One machine serves all of them: a parent under the filter starts CYCLES children one
after the other, which open, bind, map and read all that an edu has, and kills each
after 0 to 15 ms. At the end nothing may be open, pinned or waiting.
"""

from __future__ import annotations

import gc
import os
import sys

from uvfio.linux.kernel.fs import File
from uvfio.live.client import Client, LiveThread
from uvfio.live.memory import LivePages
from uvfio.live.supervisor import Supervisor
from uvfio.machine import Machine, Plugged
from uvfio.runtime.live import LiveRuntime

PARENT = """
import os, random, signal, struct, sys, time, fcntl, mmap
rng = random.Random(int(sys.argv[2]))
def job():
    page = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    import ctypes
    va = ctypes.addressof(ctypes.c_char.from_buffer(page))
    while True:
        try:
            i = os.open("/dev/iommu", os.O_RDWR)
            ioas = bytearray(struct.pack("<3I", 12, 0, 0)); fcntl.ioctl(i, 0x3b81, ioas)
            n = struct.unpack_from("<I", ioas, 8)[0]
            fcntl.ioctl(i, 0x3b85, bytearray(struct.pack("<4I3Q", 40, 7, n, 0, va, 1 << 16, 0x100000)))
            c = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
            fcntl.ioctl(c, 0x3b76, bytearray(struct.pack("<IIiI", 16, 0, i, 0)))
            fcntl.ioctl(c, 0x3b77, bytearray(struct.pack("<3I", 12, 0, n)))
            e = os.eventfd(0)
            fcntl.ioctl(c, 0x3b6e, bytearray(struct.pack("<5Ii", 24, 36, 1, 0, 1, e)))
            m = mmap.mmap(c, 4096, offset=0x56 << 48)
            os.pread(c, 64, 0x56 << 48 | 7 << 40)
            if os.fork() == 0:
                struct.unpack_from("<I", m, 0)
                os._exit(0)
            os.wait()
            open("/sys/bus/pci/devices/0000:00:01.0/vendor").read()
        except OSError:
            pass
        else:
            m.close(); os.close(c); os.close(i); os.close(e)
for cycle in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        job()
    time.sleep(rng.random() * 0.015)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def alive(kind: type) -> int:
    return sum(isinstance(each, kind) for each in gc.get_objects())


def main() -> int:
    cycles, seed = [*sys.argv[1:], "1000", "1"][:2] if len(sys.argv) != 2 else (sys.argv[1], "1")
    machine = Machine()
    machine.boot([Plugged("edu")])
    assert isinstance(machine.runtime, LiveRuntime)
    before = len(os.listdir("/proc/self/fd"))
    supervisor = Supervisor(machine)
    try:
        status = supervisor.run([sys.executable, "-S", "-c", PARENT, cycles, seed])
    finally:
        supervisor.close()
    gc.collect()
    left = {
        "status": status,
        "fds": len(os.listdir("/proc/self/fd")) - before,
        "open files": len(supervisor.open_files.by_link),
        "waiting tasks": len(machine.runtime.waiters),
        "findings and bugs": len(supervisor.broken),
        **{kind.__name__: alive(kind) for kind in (File, Client, LiveThread, LivePages)},
    }
    print(f"{cycles} clients killed (seed {seed}); left behind: {left}")
    return 1 if any(left.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
