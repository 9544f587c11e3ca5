# SPDX-License-Identifier: GPL-2.0-only
"""
The recorded sessions: how they are kept, and how the reference kernel makes them.

The file is an xz of JSON lines, one session each: ``seed``, ``theme``, ``calls`` and
``answers``, which have the same length.
"""

from __future__ import annotations

import base64
import json
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
DATA = TESTS / "data"
BOOT_FAILED = 70
PACKAGES = ("corpus", "iommufd_corpus", "vfio_corpus")  # what the reference kernel's guest gets

Session = dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """
    Sessions made by *package*, *boot* of them in one boot of the reference kernel.
    *machines* are seeds, and arguments of QEMU for the machine that they need.
    """

    package: str
    boot: int
    machines: tuple[tuple[range, tuple[str, ...]], ...]

    @property
    def file(self) -> Path:
        return DATA / f"{self.package}.jsonl.xz"

    def load(self) -> list[Session]:
        return [json.loads(line) for line in lzma.decompress(self.file.read_bytes()).splitlines()]

    def session(self, seed: int) -> Session:
        [found] = [session for session in self.load() if session["seed"] == seed]
        return found

    def save(self, sessions: Sequence[Session]) -> None:
        self.file.write_bytes(lzma.compress(dump(sessions), preset=9 | lzma.PRESET_EXTREME))

    def run(self, oracle: Path, arguments: str, extra: Path | None = None, seed: int = 0) -> str:
        """What ``python -m PACKAGE.``\\ *arguments* prints in the reference kernel, on the machine of *seed*."""
        [qemu] = [machine for seeds, machine in self.machines if seed in seeds]
        return run(oracle, f"{self.package}.{arguments}", extra, qemu)

    def record_all(self, oracle: Path) -> Iterator[tuple[list[Session], list[str]]]:
        for seeds, _machine in self.machines:
            yield from self.record(oracle, seeds)

    def record(self, oracle: Path, seeds: range) -> Iterator[tuple[list[Session], list[str]]]:
        """Sessions of the *seeds*, all of one machine, boot by boot."""
        for first in range(seeds.start, seeds.stop, self.boot):
            count = min(self.boot, seeds.stop - first)
            yield parse(self.run(oracle, f"record {first} {count}", seed=first))


def dump(sessions: Sequence[Session]) -> bytes:
    """The sessions as JSON lines."""
    return b"".join(json.dumps(session, separators=(",", ":")).encode() + b"\n" for session in sessions)


def run(oracle: Path, command: str, extra: Path | None = None, qemu: Sequence[str] = ()) -> str:
    """What ``python -m``\\ *command* prints in the reference kernel."""
    with tempfile.TemporaryDirectory() as work:
        for package in PACKAGES:
            shutil.copytree(TESTS / package, Path(work) / package, ignore=shutil.ignore_patterns("__pycache__"))
        if extra is not None:
            shutil.copy(extra, Path(work) / extra.name)
        # The kernel's messages must not get between the lines; they are read from /dev/kmsg.
        (Path(work) / "cmd").write_text(f"dmesg -n 1; PYTHONPATH=/t python3.11 -m {command} 2>&1\n")
        for _ in range(3):
            done = subprocess.run(
                [oracle / "run", work, *qemu], capture_output=True, text=True, env={**os.environ, "TIMEOUT": "900"}
            )
            # On a busy computer the guest's timer may not come up: that says nothing of what it runs.
            if done.returncode != BOOT_FAILED:
                break
    if done.returncode:
        raise RuntimeError(f"the reference kernel's guest must succeed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def parse(printed: str) -> tuple[list[Session], list[str]]:
    """Sessions, and what the kernel complained about, from what ``record`` printed."""
    lines = printed.splitlines()
    begin, end = lines.index("BEGIN"), lines.index("END")
    data = lzma.decompress(base64.b64decode("".join(lines[begin + 1 : end])))
    return [json.loads(line) for line in data.splitlines()], [line for line in lines[:begin] if "KERNEL" in line]
