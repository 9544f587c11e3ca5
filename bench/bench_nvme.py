# SPDX-License-Identifier: GPL-2.0-only
"""
Random reads of 4 KiB at queue depth 32 from our NVMe disk, by a polling driver in C.

    python bench/bench_nvme.py [COUNT]

The floor is the round trip of a supervisor in C that does nothing. Two ways to ring:
both doorbells for each command ("polled"), or for 32 at a time ("coalesced"). Each is
measured five times in turn, and the best counts. Exits 1 when a command needs more
round trips than its limit.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench_ioctl import build, microseconds

HERE = Path(__file__).parent
CLIENTS = HERE.parent / "tests" / "clients"
ROUND_TRIPS = {"polled": 4.0, "coalesced": 1.0}
ROUNDS = 5


def measure(client: str, mode: str, count: str, disk: str) -> tuple[float, float]:
    """(microseconds, register accesses) of a command."""
    run = [sys.executable, "-m", "uvfio", "run", "-d", f"nvme,file={disk},size=64M", "--", client, mode, count]
    done = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    time, accesses = map(float, done.stdout.split())
    return time, accesses


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "9600"
    with tempfile.TemporaryDirectory() as directory:
        supervisor, null = build(directory, "null_supervisor"), build(directory, "ioctl_client")
        client = build(directory, "nvme_bench", f"{CLIENTS}/nvme_queue.c", f"{CLIENTS}/client_lib.c")
        floors, found = [], []
        for _ in range(ROUNDS):
            floors.append(microseconds([supervisor, null, "/dev/null", "null", count]))
            found.append({mode: measure(client, mode, count, f"{directory}/disk") for mode in ROUND_TRIPS})
    floor = min(floors)
    print(f"do-nothing supervisor in C   {floor:6.2f} us a call")
    kept = True
    for mode, limit in ROUND_TRIPS.items():
        time, accesses = min(each[mode] for each in found)
        kept = kept and accesses <= limit
        speed = f"{time:6.2f} us a read, {1e6 / time:7.0f} IOPS, {time / floor:5.2f} x"
        print(f"{mode:28} {speed}; {accesses:.2f} round trips (limit {limit:.0f})")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
