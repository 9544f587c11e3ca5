# SPDX-License-Identifier: GPL-2.0-only
"""
An access to a mapped register: pinned to one processor, and from four threads.

    python bench/bench_mmio.py [COUNT]

Each is measured three times in turn, and the best of each counts. Exits 1 when a limit
is not kept. Microseconds depend on the machine: what a tracer in C needs for the same
stops, pinned, is printed for comparison.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_ioctl import build

HERE = Path(__file__).parent
CLIENTS = HERE.parent / "tests" / "clients"
LIMITS = {"pinned": 20.0, "four threads": 25.0}
ROUNDS = 3


def microseconds(command: list[str], pinned: bool) -> float:
    pin = (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})) if pinned else None
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, preexec_fn=pin)
    return float(done.stdout)


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "5000"
    with tempfile.TemporaryDirectory() as directory:
        tracer = build(directory, "null_tracer")
        client = build(directory, "mmio_client", f"{CLIENTS}/nvme_queue.c", f"{CLIENTS}/client_lib.c", "-lpthread")
        run = [sys.executable, "-m", "uvfio", "run", "-d", "edu", "--", client]
        rounds = [
            {
                "floor": microseconds([tracer, count], True),
                "pinned": microseconds([*run, "1", count], True),
                "four threads": microseconds([*run, "4", count], False),
            }
            for _ in range(ROUNDS)
        ]
    best = {name: min(each[name] for each in rounds) for name in rounds[0]}
    print(f"do-nothing tracer in C       {best['floor']:6.2f} us an access")
    for name, limit in LIMITS.items():
        print(f"{name:28} {best[name]:6.2f} us an access, {best[name] / best['floor']:5.2f} x   (limit {limit:.0f} us)")
    return 0 if all(best[name] <= limit for name, limit in LIMITS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
