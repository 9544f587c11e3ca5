# SPDX-License-Identifier: GPL-2.0-only
"""Memory of real clients under iommufd: files, accounting, processes that go; as on Linux."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clients_build import CLIENTS, uvfio_run
from shared import need, need_program

SAID = """\
without a device: ok ok
with one: EINVAL EINVAL
of /proc: EINVAL
our own: EINVAL EBADF
read-only: ok [9, 9]
device wrote b'hello'
private too: [11, 11] change: EINVAL
device wrote b'there'
child: [0, 0] change: ok [9, 9]
parent: [0, 0]
device wrote b'hello'
at last: [0, 0]
device read what is gone: b'shared'
"""


@pytest.mark.live
def test_memory_of_files_and_processes() -> None:
    run = uvfio_run([sys.executable, CLIENTS / "memory_client.py"])
    assert (run.stdout, run.stderr, run.returncode) == (SAID, "", 0)


@pytest.mark.oracle
def test_the_same_on_the_reference_kernel(tmp_path: Path) -> None:
    oracle = need("oracle/run") / "oracle" / "run"
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"), ("xz", "xz-utils")):
        need_program(program, package)
    shutil.copy(CLIENTS / "memory_client.py", tmp_path)
    (tmp_path / "cmd").write_text("python3.11 memory_client.py\n")
    done = subprocess.run([oracle, tmp_path], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == (SAID, 0)
