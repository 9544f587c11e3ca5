# SPDX-License-Identifier: GPL-2.0-only
"""
One C program, 1,700 calls, two kernels: the output must be equal byte for byte.

``data/vfio_client.linux-7.3.4.txt`` is what Linux printed; it is compared with uvfio
everywhere, and with Linux again where the reference kernel and QEMU are at hand.
``UVFIO_RECORD=1`` writes it anew.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clients_build import ROOT, VFIO_CLIENT, build, uvfio_run

RECORDED = ROOT / "tests" / "data" / "vfio_client.linux-7.3.4.txt"
ORACLE = ROOT.parent / "shared" / "oracle" / "run"
MARK = "VFIO-CLIENT-OUTPUT\n"


def differences(expected: str, seen: str) -> str:
    lines = difflib.unified_diff(expected.splitlines(), seen.splitlines(), "Linux 7.3.4", "here", lineterm="", n=1)
    return "\n".join(list(lines)[:60])


@pytest.mark.live
def test_prints_the_same_under_uvfio(tmp_path: Path) -> None:
    client = build(tmp_path / "vfio_client", VFIO_CLIENT)
    run = uvfio_run([client], devices=("edu", "pci-testdev", "e1000e"))
    assert run.stderr == ""
    assert differences(RECORDED.read_text(), run.stdout) == ""
    assert run.returncode == 0


@pytest.mark.oracle
def test_prints_the_same_in_the_reference_kernel(tmp_path: Path) -> None:
    if not ORACLE.exists() or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("NO REFERENCE KERNEL (shared/oracle and qemu-system-x86): only its recorded answers were compared")
    build(tmp_path / "vfio_client", VFIO_CLIENT, "-static")
    (tmp_path / "cmd").write_text(
        # Messages of kernel and emulator would land between the client's lines.
        f"echo 1 > /proc/sys/kernel/printk; ./vfio_client > out; rc=$?; printf {MARK!r}; cat out; exit $rc\n"
    )
    run = subprocess.run([str(ORACLE), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    seen = run.stdout.partition(MARK)[2]
    if os.environ.get("UVFIO_RECORD"):
        RECORDED.write_text(seen)
    assert differences(RECORDED.read_text(), seen) == ""
