# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's firmware boots from our NVMe disk: its own driver finds it, and reads for who asks by INT 13h."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from clients_build import uvfio_run

pytestmark = pytest.mark.live

LOADED, BUFFER, PACKET = 0x7C00, 0x8000, 0x80
EXIT_PORT, EXIT_VALUE = 0x4F4, 1
MESSAGE = b"from the second sector\n"


def boot_sector() -> bytes:
    """Reads the sector behind itself to BUFFER, sends it to the serial port up to a zero, and exits."""
    code = bytes.fromhex("31c0 8ed8 8ec0 8ed0 bc007c")  # ax = ds = es = ss = 0, sp = 7c00
    code += b"\xb4\x42\xbe" + struct.pack("<H", LOADED + PACKET) + b"\xcd\x13\x72\x0f"  # INT 13h, AH 42h; jc out
    code += b"\xbe" + struct.pack("<H", BUFFER)
    code += bytes.fromhex("ac 84c0 7406 baf803 ee ebf5")  # lodsb; test; jz out; mov dx,3f8; out; again
    code += b"\xba" + struct.pack("<H", EXIT_PORT) + bytes((0xB0, EXIT_VALUE)) + bytes.fromhex("ee f4 ebfd")
    packet = struct.pack("<BBHHHQ", 16, 0, 1, BUFFER, 0, 1)  # one sector, number 1
    return (code.ljust(PACKET, b"\0") + packet).ljust(510, b"\0") + b"\x55\xaa"


def test_it_boots(tmp_path: Path) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("NO QEMU (qemu-system-x86): its firmware was not run")
    disk = tmp_path / "disk"
    disk.write_bytes((boot_sector() + MESSAGE).ljust(1 << 20, b"\0"))
    machine = f"{qemu} -M q35 -accel tcg -m 64M -nodefaults -no-reboot -display none -serial stdio".split()
    devices = ["-device", f"isa-debug-exit,iobase={EXIT_PORT}", "-device", "vfio-pci,host=0000:00:01.0,bootindex=1"]
    run = uvfio_run([*machine, *devices], devices=(f"nvme,file={disk},readonly=yes",))
    assert run.stdout == MESSAGE.decode(), run.stderr
    assert run.returncode == EXIT_VALUE << 1 | 1
