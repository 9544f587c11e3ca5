# SPDX-License-Identifier: GPL-2.0-only
"""
DMA of 64 MiB by a device in Python, against memcpy in the client of the same run.

    python bench/bench_dma.py

Private and shared client memory, both directions. Exits 1 when the device moves less
than half of what memcpy does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench_ioctl import build

HERE = Path(__file__).parent
LIMIT = 0.5
MIB = 64


def main() -> int:
    kept = True
    with tempfile.TemporaryDirectory() as directory:
        client = build(directory, "dma_client", str(HERE.parent / "tests" / "clients" / "client_lib.c"))
        for kind in ("private", "shared"):
            run = [sys.executable, "-m", "uvfio", "run", "-d", str(HERE / "copy_engine.py"), "--", client, kind]
            done = subprocess.run(run, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
            if done.returncode:
                print(done.stdout, end="")
                return 1
            memcpy, read, write = map(float, done.stdout.split())
            for what, seconds in (("read", read), ("write", write)):
                ratio = memcpy / seconds
                kept = kept and ratio >= LIMIT
                speeds = f"{MIB / seconds:8.0f} MiB/s, memcpy {MIB / memcpy:8.0f} MiB/s"
                print(f"device {what:5} of {kind:7} memory {speeds}: {ratio:4.0%}   (limit {LIMIT:.0%})")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
