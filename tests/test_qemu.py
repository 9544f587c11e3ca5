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


def initrd(directory: Path) -> Path:
    """The reference guest's root, which runs /t/cmd, with our program in it."""
    payload = directory / "t"
    payload.mkdir()
    shutil.copy(CLIENTS / "guest_edu.py", payload)
    # The guest sets huge pages aside, in what is little memory here.
    setup = "echo 1 > /proc/sys/kernel/printk; echo 0 > /proc/sys/vm/nr_hugepages"
    (payload / "cmd").write_text(f"{setup}; python3.11 guest_edu.py\n")
    names = b"t\nt/cmd\nt/guest_edu.py\n"
    ours = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=names, cwd=directory, capture_output=True, check=True
    ).stdout
    root = subprocess.run(["xz", "-dc", ORACLE / "base.cpio.xz"], capture_output=True, check=True).stdout
    image = directory / "initrd"
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
    assert "ORACLE-BEGIN\n" in text, run.stderr
    printed = text.partition("ORACLE-BEGIN\n")[2].partition("ORACLE-END")[0]
    assert printed.splitlines() == ["identification 0x10000ed", "10! = 3628800", "DMA out and back: equal"]
