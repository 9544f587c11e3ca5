# SPDX-License-Identifier: GPL-2.0-only
"""
Round trip of an ioctl: ours against a supervisor in C that does nothing.

    python bench/bench_ioctl.py [COUNT]

Each is measured five times in turn, and the best of each counts: what disturbs a
measurement only ever makes it slower. Exits 1 when a limit is not kept.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LIMITS = {"null": 2.5, "map": 8.0}
ROUNDS = 5


def build(directory: str, name: str, *more: str) -> str:
    """Compile ``name.c`` of this directory; *more*: further sources and flags. The program's path."""
    program = f"{directory}/{name}"
    subprocess.run(["cc", "-O2", "-Wall", "-o", program, str(HERE / f"{name}.c"), *more], check=True)
    return program


def microseconds(command: list[str]) -> float:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    return float(done.stdout)


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "50000"
    with tempfile.TemporaryDirectory() as directory:
        supervisor = build(directory, "null_supervisor")
        client = build(directory, "ioctl_client")
        uvfio = [sys.executable, "-m", "uvfio", "run", "--"]
        commands = {
            "do-nothing supervisor in C": [supervisor, client, "/dev/null", "null", count],
            "null": [*uvfio, client, "/dev/iommu", "null", count],
            "map": [*uvfio, client, "/dev/iommu", "map", count],
            "map in C": [supervisor, client, "/dev/null", "map", count],
        }
        rounds = [{name: microseconds(command) for name, command in commands.items()} for _ in range(ROUNDS)]
    best = {name: min(each[name] for each in rounds) for name in commands}
    base, pair = best.pop("do-nothing supervisor in C"), best.pop("map in C")
    print(f"do-nothing supervisor in C   {base:6.2f} us a call, {pair:.2f} us a pair")
    kept = True
    for name, limit in LIMITS.items():
        what = {"null": "VFIO_GET_API_VERSION", "map": "IOAS_MAP + IOAS_UNMAP"}[name]
        # A map and an unmap are two calls; the limit is for the pair against one round trip.
        ratio = best[name] / base
        kept = kept and ratio <= limit
        pairs = f"; {best[name] / pair:.2f} x a pair" if name == "map" else ""
        print(f"{what:28} {best[name]:6.2f} us   {ratio:5.2f} x   (limit {limit} x){pairs}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
