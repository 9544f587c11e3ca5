# SPDX-License-Identifier: GPL-2.0-only
"""Building the C clients with the system's compiler and running them under ``uvfio run``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "tests" / "clients"
VFIO_CLIENT = (
    "vfio_client.c",
    "client_lib.c",
    "client_job.c",
    "misuse_fds.c",
    "misuse_dma.c",
    "misuse_device.c",
    "misuse_cdev.c",
)


def build(out: Path, sources: Sequence[str], *flags: str) -> Path:
    """Compile *sources* of tests/clients to the program *out*."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("NO C COMPILER: the C clients were not run")
    command = [cc, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-result", *flags, "-o", str(out)]
    subprocess.run([*command, *(str(CLIENTS / name) for name in sources), "-lpthread"], check=True)
    return out


def uvfio_run(
    argv: Sequence[str | Path],
    devices: Sequence[str] = ("edu",),
    timeout: float = 120,
    extra: Sequence[str | Path] = (),
) -> subprocess.CompletedProcess[str]:
    """Run *argv* under ``uvfio run``; fails the test when it does not end in time."""
    options = [word for device in devices for word in ("-d", device)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "uvfio", "run", *map(str, extra), *options, "--", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=dict(os.environ, PYTHONPATH=path),
    )
