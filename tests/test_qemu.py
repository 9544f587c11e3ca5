# SPDX-License-Identifier: GPL-2.0-only
"""
Unmodified QEMU passes an edu that does not exist through to a guest: its vfio-pci
device opens group and container, maps guest memory, and drives BAR and interrupts.
The guest is the reference kernel, which knows nothing of it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from clients_build import CLIENTS, ROOT, uvfio_run

ORACLE = ROOT.parent / "shared" / "oracle"
SECTOR = 512  # where concatenated archives must start
pytestmark = [pytest.mark.live, pytest.mark.oracle]


# The reference guest's own init sets 512 MiB of huge pages aside: all the memory there is here.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
echo 1 > /proc/sys/kernel/printk
echo GUEST-BEGIN; python3.11 /guest_edu.py; echo GUEST-END
poweroff -f
"""


def initrd(directory: Path) -> Path:
    """The reference guest's root with our program in it, run by our own init."""
    shutil.copy(CLIENTS / "guest_edu.py", directory)
    init = directory / "init"
    init.write_text(INIT)
    init.chmod(0o755)
    ours = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input=b"init\nguest_edu.py\n",
        cwd=directory,
        capture_output=True,
        check=True,
    ).stdout
    root = subprocess.run(["xz", "-dc", ORACLE / "base.cpio.xz"], capture_output=True, check=True).stdout
    image = directory / "initrd"
    # The later archive's init replaces the earlier one's.
    image.write_bytes(root + bytes(-len(root) % SECTOR) + ours)
    return image


def test_qemu_passes_the_device_to_a_guest(tmp_path: Path) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or not ORACLE.exists():
        pytest.skip("NO REFERENCE KERNEL (shared/oracle and qemu-system-x86): QEMU was not run")
    # All guest memory below 256 MiB: the device's DMA reaches no further.
    machine = f"{qemu} -M q35 -cpu max -m 250M -accel tcg -nodefaults -no-reboot -display none -serial stdio".split()
    boot = ["-kernel", ORACLE / "bzImage", "-initrd", initrd(tmp_path), "-append", "console=ttyS0 quiet panic=-1"]
    run = uvfio_run([*machine, *boot, "-device", "vfio-pci,host=0000:00:01.0"])
    text = run.stdout.replace("\r", "")
    assert "GUEST-BEGIN\n" in text, run.stderr
    printed = text.partition("GUEST-BEGIN\n")[2].partition("GUEST-END")[0]
    assert printed.splitlines() == ["identification 0x10000ed", "10! = 3628800", "DMA out and back: equal"]
