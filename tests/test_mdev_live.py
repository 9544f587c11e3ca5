# SPDX-License-Identifier: GPL-2.0-only
"""Mediated devices under ``uvfio run``: a shell script makes, uses and removes one as on Linux."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clients_build import CLIENTS, uvfio_run
from shared import need, need_program

SAID = """\
before: 24 single, 12 dual
made: 22 single, 11 dual
type: Dual port serial
driver: mtty
This is MDEV 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
not twice
cdev: registers [8, 8]
cdev: 1 interrupt, IIR 0xc4
cdev: hello world, then LSR 0x60
cdev: 0 interrupts while masked, 1 after
group: registers [8, 8]
group: 1 interrupt, IIR 0xc4
group: hello world, then LSR 0x60
group: 0 interrupts while masked, 1 after
still there
gone
after: 24 single, 12 dual
"""


@pytest.mark.live
def test_a_script_makes_uses_and_removes_a_device() -> None:
    run = uvfio_run(["sh", CLIENTS / "mtty.sh", sys.executable, CLIENTS / "mtty_client.py"], devices=("mtty",))
    assert (run.stdout, run.stderr, run.returncode) == (SAID, "", 0)


@pytest.mark.oracle
def test_the_same_on_the_reference_kernel(tmp_path: Path) -> None:
    oracle = need("oracle/run") / "oracle" / "run"
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"), ("xz", "xz-utils")):
        need_program(program, package)
    for name in ("mtty.sh", "mtty_client.py"):
        shutil.copy(CLIENTS / name, tmp_path)
    (tmp_path / "cmd").write_text("sh mtty.sh python3.11 mtty_client.py\n")
    done = subprocess.run([oracle, tmp_path], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == (SAID, 0)


FRAMEBUFFER = """
import fcntl, mmap, os, struct
uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
with open("/sys/class/mdev_bus/mdpy/mdev_supported_types/mdpy-vga/create", "w") as create:
    create.write(uuid)
device, iommufd = os.open("/dev/vfio/devices/vfio0", os.O_RDWR), os.open("/dev/iommu", os.O_RDWR)
fcntl.ioctl(device, 0x3B64 + 18, struct.pack("<IIiI", 16, 0, iommufd, 0))
info = bytearray(struct.pack("<4I2Q", 32, 0, 0, 0, 0, 0))
fcntl.ioctl(device, 0x3B64 + 8, info)
size, offset = struct.unpack("<4I2Q", info)[4:]
with mmap.mmap(device, size, offset=offset) as screen:
    screen[0:4] = b"text"
    os.pwrite(device, b"pixels", offset + size - 6)
    print(os.pread(device, 4, offset), screen[-6:], size)
    fcntl.ioctl(device, 0x3B64 + 11, 0)
    print(any(screen[:]))
"""


@pytest.mark.live
def test_a_framebuffer_is_shared_with_its_client() -> None:
    run = uvfio_run([sys.executable, "-c", FRAMEBUFFER], devices=("mdpy",))
    assert (run.stdout, run.stderr, run.returncode) == ("b'text' b'pixels' 2097152\nFalse\n", "", 0)
