# SPDX-License-Identifier: GPL-2.0-only
"""
What PyPI's frontrun makes of ``programs.py``, as JSON. Started by ``bench_explore.py``:

    frontrun python bench/frontrun_side.py SECONDS
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import frontrun
from programs import LOCKS, PROGRAMS, Program


class World:
    def __init__(self) -> None:
        self.m = threading.Lock()
        self.k = threading.Lock()
        self.x = 0
        self.y = 0
        self.failed = False


def search(program: Program, seconds: float) -> dict[str, Any]:
    start = time.monotonic()
    result = frontrun.explore(
        World,
        list(program.tasks),
        lambda world: not world.failed,
        preemption_bound=None,
        detect_io=False,
        total_timeout=seconds,
        reproduce_on_failure=0,
    )
    seconds = time.monotonic() - start
    return {"executions": result.num_explored, "fails": not result.property_holds, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps({program.name: search(program, float(sys.argv[1])) for program in (LOCKS, *PROGRAMS)}))
