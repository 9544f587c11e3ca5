# SPDX-License-Identifier: GPL-2.0-only
"""Debian's DPDK on our I/OAT engine: it finds it, drives it, and is content with what it does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from clients_build import uvfio_run

pytestmark = pytest.mark.live


def test_dmadev(tmp_path: Path) -> None:
    program = shutil.which("dpdk-test")
    if program is None:
        pytest.skip("NO DPDK (Debian: dpdk-dev): its driver was not run on our I/OAT engine")
    environment = [f"XDG_RUNTIME_DIR={tmp_path}", "DPDK_TEST=dmadev_autotest"]
    eal = ["-l", "0", "--no-huge", "-m", "256", "--no-telemetry", "-a", "0000:00:01.0"]
    run = uvfio_run(["env", *environment, program, *eal], devices=("ioat",), timeout=300)
    text = run.stdout.replace("\r", "\n")
    if "Error performing API tests" in run.stderr and "### Test dmadev instance 0" not in text:
        pytest.skip("DPDK'S SKELETON DRIVER FAILED ITS TEST, as it does on a busy host: ours was not reached")
    mine = text.partition("### Test dmadev instance 0 [0000:00:01.0]")[2].partition("### Test dmadev instance 1")[0]
    assert "Running fill Tests" in mine, run.stdout[-2000:] + run.stderr
    assert re.findall(r"Errors: (\d+)$", mine, re.M)[-1] == "0"
    assert "Ops submitted: 85120\tOps completed: 85120" in mine
    assert "Test OK" in text


def test_devbind() -> None:
    program = shutil.which("dpdk-devbind.py")
    if program is None or shutil.which("lspci") is None:
        pytest.skip("NO DPDK OR NO LSPCI (Debian: dpdk, pciutils): dpdk-devbind was not run")
    script = f"{program} -u 0000:00:01.0; {program} -b vfio-pci 0000:00:01.0; {program} --status-dev dma"
    run = uvfio_run(["sh", "-c", script], devices=("ioat,driver=none",))
    assert re.search(r"^0000:00:01\.0 '.*2021.*' drv=vfio-pci unused=", run.stdout, re.M), run.stdout + run.stderr
