# SPDX-License-Identifier: GPL-2.0-only
"""
How fast the exhaustive search is: alone, against frontrun and Spin, with two processes.

    python bench/bench_explore.py [speed] [frontrun] [spin] [jobs]

All four unless some are named; what is not installed is skipped with a word (PyPI's
frontrun, which `make bench` installs: in this venv or in PATH; Debian's spin, and gcc).
Rates of uvfio, and times of the models, are the best of ROUNDS. Exits 1 when a limit is
not kept.

With two processes the time that they wait for a processor is left out, as others may use
the machine too; the times with it are printed as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from programs import LOCKS, PROGRAMS, Program

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Judge, Result, explore
from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Splat
from uvfio.runtime.struct import kstruct, kzalloc

HERE = Path(__file__).parent
ROUNDS = 3
SECONDS = 4.0  # of searching what is too large to be exhausted

RATE = 8000  # executions/s of the 24 steps, at least
TIMES_FRONTRUN = 20
TIMES_JOBS = 1.7

# The model; the scenario; a bug of it, which must be found in the model too
MODELS = [
    ("unplug_vs_unset_container", "vfio.unplug_vs_unset_container", "G2"),
    ("release_vs_bind", "kvm.release_vs_bind", "D3"),
    ("s390_unplug_vs_unset_container", "s390.unplug_vs_unset_container", "S0"),
]


@kstruct("x", "y")
class World:
    """What the programs work on, made of uvfio's primitives."""

    def __init__(self) -> None:
        self.m = Mutex("m")
        self.k = Mutex("k")
        self.x = 0
        self.y = 0
        self.failed = False


def run(program: Program, runtime: ControlledRuntime) -> Judge:
    runtime.machine = SimpleNamespace(statics={})
    world = runtime.run_function(lambda: kzalloc(World), "setup")
    for name, body in zip("ABC", program.tasks, strict=False):
        runtime.spawn(partial(body, world), name)
    return partial(_judge, world)


def _judge(world: World) -> Hashable:
    if world.failed:
        raise Splat("failed", "a task of the program has failed")
    return None


def search(program: Program) -> Result:
    results = [explore(partial(run, program), Dpor(), budget=SECONDS) for _ in range(ROUNDS)]
    return max(results, key=lambda result: result.runs / result.seconds)


def speed() -> bool:
    """The limits on uvfio alone."""
    result = search(LOCKS)
    rate = result.runs / result.seconds
    print(
        f"{LOCKS.name}: {rate:,.0f} executions/s, {result.steps / result.seconds:,.0f} steps/s, "
        f"{result.deepest} steps deep   (limit {RATE:,}/s)"
    )
    kept = rate >= RATE and result.deepest == 24
    for program in PROGRAMS:
        if not program.fails:
            result = search(program)
            print(
                f"{program.name}: {result.runs} executions for {program.classes} classes, "
                f"{result.cut} cut off   (limit: one each)"
            )
            kept = kept and result.complete and result.runs == program.classes
    return kept


def frontrun() -> bool:
    """The same programs there and here."""
    path = os.environ.get("PATH", os.defpath)
    command = shutil.which("frontrun", path=f"{Path(sys.executable).parent}:{path}")
    if command is None:
        return skip("frontrun (pip install -e '.[bench]')")
    python = shutil.which("python", path=f"{Path(command).parent}:{path}")  # one that can import it
    assert python is not None
    done = subprocess.run(
        [command, python, str(HERE / "frontrun_side.py"), str(SECONDS)], capture_output=True, text=True
    )
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr)
        return False
    theirs: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for program in PROGRAMS:
        ours, said = search(program), theirs[program.name]
        right = "" if said["fails"] == program.fails else ", which is WRONG"
        print(
            f"{program.name}: uvfio {ours.runs} executions, {verdict(ours.finding is not None)}; "
            f"frontrun {said['executions']}, {verdict(said['fails'])}{right}"
        )
    ours, said = search(LOCKS), theirs[LOCKS.name]
    rates = ours.runs / ours.seconds, said["executions"] / said["seconds"]
    times: float = rates[0] / rates[1]
    print(
        f"{LOCKS.name}: uvfio {rates[0]:,.0f} executions/s, frontrun {rates[1]:,.0f}/s: "
        f"{times:.0f} times   (limit {TIMES_FRONTRUN})"
    )
    return times >= TIMES_FRONTRUN


def verdict(fails: bool) -> str:
    return "fails" if fails else "holds"


def spin() -> bool:
    """Generate, compile and run a model by hand, against the scenario itself."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            return skip(f"{tool} (Debian)")
    kept = True
    for model, scenario, bug in MODELS:
        theirs, states = min(_spin(model) for _ in range(ROUNDS))
        _time, buggy = _spin(model, "-DBUG")
        ours, said = min((_uvfio(scenario) for _ in range(ROUNDS)), key=lambda each: each[0])
        _time, found = _uvfio(scenario, "--bug", bug)
        print(
            f"{scenario}: uvfio {ours:.2f} s, {said['executions'] - said['cut_off']} classes; "
            f"Spin {theirs:.2f} s, {states.split(',')[0].strip()}: {theirs / ours:.1f} times   (limit 1)"
        )
        proven = said["verdict"] == "complete" and "errors: 0" in states
        teeth = found["verdict"] == "found" and "errors: 0" not in buggy
        if not proven or not teeth:
            print(f"  {scenario} and its model must both hold, and both fail with {bug}")
        kept = kept and proven and teeth and ours < theirs
    return kept


def _spin(model: str, *options: str) -> tuple[float, str]:
    """Seconds from the model to the verdict, and the lines of that."""
    with tempfile.TemporaryDirectory() as directory:
        for source in (HERE / "spin" / "mutex.h", HERE / "spin" / f"{model}.pml"):
            shutil.copy(source, directory)
        start = time.monotonic()
        for command in (
            ["spin", "-a", *options, f"{model}.pml"],
            ["gcc", "-O2", "-o", "pan", "pan.c"],
            ["./pan"],
        ):
            done = subprocess.run(command, cwd=directory, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.monotonic() - start
    lines = [line for line in done.stdout.splitlines() if "states, stored" in line or "errors:" in line]
    return seconds, "\n".join(reversed(lines))


def _uvfio(scenario: str, *options: str) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command, and what it says."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "uvfio", "explore", scenario, "--json", *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return time.monotonic() - start, said


def jobs() -> bool:
    """Two processes against one."""
    if len(os.sched_getaffinity(0)) < 2:
        return skip("a second processor")
    scenario = "bench/scenarios.py::three_openers"
    one, two = (Measured(scenario, jobs) for jobs in (1, 2))
    print(
        f"{scenario}: {one.seconds:.1f} s, with --jobs 2 {two.seconds:.1f} s: {one.seconds / two.seconds:.2f} times; "
        f"{one.classes} and {two.classes} classes, {two.said['cut_off']} cut off"
    )
    times = one.undisturbed / two.undisturbed
    print(
        f"  without waiting for a processor: {one.undisturbed:.1f} s and {two.undisturbed:.1f} s: "
        f"{times:.2f} times   (limit {TIMES_JOBS}); {one.used:.1f} s and {two.used:.1f} s of processor used"
    )
    return one.classes == two.classes and one.said["outcomes"] == two.said["outcomes"] and times >= TIMES_JOBS


class Measured:
    """The whole command with *jobs* processes, and what its processes used and waited for."""

    def __init__(self, scenario: str, jobs: int) -> None:
        start = time.monotonic()
        command = [sys.executable, "-m", "uvfio", "explore", scenario, "--json", "--jobs", str(jobs)]
        with tempfile.TemporaryFile("w+") as out, subprocess.Popen(command, stdout=out, cwd=HERE.parent) as process:
            seen: dict[int, tuple[float, float]] = {}  # process: seconds run, seconds waited for a processor
            while process.poll() is None:
                for pid in (process.pid, *_children(process.pid)):
                    with suppress(OSError):
                        ran, waited = Path(f"/proc/{pid}/schedstat").read_text().split()[:2]
                        seen[pid] = int(ran) / 1e9, int(waited) / 1e9
                time.sleep(0.05)
            self.seconds = time.monotonic() - start
            out.seek(0)
            self.said: dict[str, Any] = json.load(out)
        self.used = sum(ran for ran, _waited in seen.values())
        waits = sorted(waited for _ran, waited in seen.values())[-jobs:]
        self.undisturbed = self.seconds - sum(waits) / jobs

    @property
    def classes(self) -> int:
        return int(self.said["executions"]) - int(self.said["cut_off"])


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def skip(what: str) -> bool:
    print(f"SKIPPED: there is no {what} here")
    return True


def main() -> int:
    sections = {"speed": speed, "frontrun": frontrun, "spin": spin, "jobs": jobs}
    named = sys.argv[1:] or list(sections)
    kept = True
    for name in named:
        print(f"-- {name}: {sections[name].__doc__}")
        if not sections[name]():
            print(f"{name}: a limit is not kept")
            kept = False
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
