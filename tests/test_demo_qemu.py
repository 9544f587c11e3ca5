# SPDX-License-Identifier: GPL-2.0-only
"""``make demo-qemu``: a guest's own NVMe driver on our disk, checksums on both sides, and a hot unplug."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from clients_build import ROOT, uvfio_run

pytestmark = pytest.mark.live
NEEDED = ("qemu-system-x86_64", "busybox", "cpio")


def test_a_guest_mounts_a_file_system_on_our_disk(tmp_path: Path) -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"NO {', '.join(missing).upper()}: the demo was not run")
    if not list(Path("/boot").glob("vmlinuz-*")):
        pytest.skip("NO KERNEL IN /boot (Debian: linux-image-cloud-amd64): the demo was not run")
    disk = tmp_path / "disk.img"
    program = [sys.executable, ROOT / "examples" / "demo_qemu.py", "--disk", disk]
    run = uvfio_run(program, devices=(f"nvme,file={disk},size=32M", "edu"), timeout=300)
    lines = run.stdout.splitlines()
    assert run.returncode == 0, run.stdout + run.stderr
    for line in (
        "nvme: uvfio NVMe controller, 65536 sectors, 2 queues",
        "edu: 10! = 3628800",
        "host: the file that the host wrote: the same",
        "written, synced and read back: equal",
        "host: the whole disk: the same",
        'host: unplug 0000:00:01.0: {"ok": true, "result": "0000:00:01.0"}',
        'host: unplug 0000:00:02.0: {"ok": true, "result": "0000:00:02.0"}',
        "both are gone",
    ):
        assert line in lines, run.stdout + run.stderr
