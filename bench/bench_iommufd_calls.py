# SPDX-License-Identifier: GPL-2.0-only
"""
iommufd's calls with a device attached: ours, against the reference kernel under emulation.

    python bench/bench_iommufd_calls.py [COUNT]

One program in C does the same under ``uvfio run``, in the reference kernel (under QEMU's
emulation, which is what there is without hardware) and under a supervisor in C that does
nothing, which is the floor. Each is run three times, and the best counts. The reference
needs ../shared/oracle; without it, it is left out, and said to be.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench_ioctl import build
from reference import in_the_reference

HERE = Path(__file__).parent
ROUNDS = 3
CALLS = {
    "map": "map and unmap 16 pages",
    "copy": "copy and unmap 16 pages",
    "bitmap": "dirty bitmap of 64 MiB",
}
Times = dict[str, float]


def times(command: list[str]) -> Times:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def best(measure: Callable[[], Times], rounds: int = ROUNDS) -> Times:
    found = [measure() for _ in range(rounds)]
    return {name: min(each[name] for each in found) for name in CALLS}


def measure_linux(client: str, count: str) -> Times | None:
    printed = in_the_reference(client, "; ".join([f"./client {count}"] * ROUNDS))
    if printed is None:
        return None
    lines = [line.split() for line in printed]
    return {name: min(float(value) for key, value in lines if key == name) for name in CALLS}


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "3000"
    with tempfile.TemporaryDirectory() as directory:
        client = build(directory, "iommufd_client", "-static")
        nothing = build(directory, "null_supervisor")
        uvfio = [sys.executable, "-m", "uvfio", "run", "--iommufd-test", "--", client, count]
        floor = best(lambda: times([nothing, client, count, "/dev/null"]))
        ours = best(lambda: times(uvfio))
        linux = measure_linux(client, count)
    for name, what in CALLS.items():
        line = f"{what:24} {ours[name]:8.1f} us, {ours[name] / floor[name]:5.1f} x the floor of {floor[name]:.1f} us"
        if linux is not None:
            line += f"; Linux, emulated: {linux[name]:8.1f} us, {ours[name] / linux[name]:5.2f} x that"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
