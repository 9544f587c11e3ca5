# SPDX-License-Identifier: GPL-2.0-only
"""SeaBIOS and EDK2 boot from our NVMe disk: each has a driver of its own."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from clients_build import ROOT, uvfio_run

pytestmark = pytest.mark.live

LOADED, BUFFER, PACKET = 0x7C00, 0x8000, 0x80
EXIT_PORT, EXIT_VALUE = 0x4F4, 1
MESSAGE = b"from the second sector\n"
OVMF = Path("/usr/share/OVMF")


def boot_sector() -> bytes:
    """Reads the sector behind itself to BUFFER, sends it to the serial port up to a zero, and exits."""
    code = bytes.fromhex("31c0 8ed8 8ec0 8ed0 bc007c")  # ax = ds = es = ss = 0, sp = 7c00
    code += b"\xb4\x42\xbe" + struct.pack("<H", LOADED + PACKET) + b"\xcd\x13\x72\x0f"  # INT 13h, AH 42h; jc out
    code += b"\xbe" + struct.pack("<H", BUFFER)
    code += bytes.fromhex("ac 84c0 7406 baf803 ee ebf5")  # lodsb; test; jz out; mov dx,3f8; out; again
    code += b"\xba" + struct.pack("<H", EXIT_PORT) + bytes((0xB0, EXIT_VALUE)) + bytes.fromhex("ee f4 ebfd")
    packet = struct.pack("<BBHHHQ", 16, 0, 1, BUFFER, 0, 1)  # one sector, number 1
    return (code.ljust(PACKET, b"\0") + packet).ljust(510, b"\0") + b"\x55\xaa"


def test_seabios(tmp_path: Path) -> None:
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


def test_edk2(tmp_path: Path) -> None:
    """It finds a FAT file system and loads a kernel of some megabytes, which is an EFI program, too."""
    qemu, kernels = shutil.which("qemu-system-x86_64"), list(Path("/boot").glob("vmlinuz-*"))
    tools = [shutil.which(name) for name in ("mformat", "mmd", "mcopy")]
    if qemu is None or not kernels or not (OVMF / "OVMF_CODE.fd").exists() or not all(tools):
        pytest.skip("NO EDK2, MTOOLS, QEMU OR KERNEL (Debian: ovmf, mtools, qemu-system-x86, linux-image): not run")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 << 20))
    subprocess.run(["mformat", "-i", disk, "-F", "::"], check=True)
    subprocess.run(["mmd", "-i", disk, "::EFI", "::EFI/BOOT"], check=True)
    subprocess.run(["mcopy", "-i", disk, kernels[0], "::EFI/BOOT/BOOTX64.EFI"], check=True)
    variables = tmp_path / "variables"
    shutil.copy(OVMF / "OVMF_VARS.fd", variables)
    flash = ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF / 'OVMF_CODE.fd'}"]
    flash += ["-drive", f"if=pflash,format=raw,file={variables}"]
    machine = f"{qemu} -M q35 -accel tcg -m 256M -nodefaults -no-reboot -display none -serial stdio".split()
    device = ["-device", "vfio-pci,host=0000:00:01.0,bootindex=1"]
    run = [sys.executable, "-m", "uvfio", "run", "-d", f"nvme,file={disk},readonly=yes", "--"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    seen: list[str] = []
    with subprocess.Popen(
        [*run, "timeout", "100", *machine, *flash, *device],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a BAR that the firmware puts beyond the IOMMU's reach is no concern
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=path),
        text=True,
        errors="replace",
    ) as guest:
        assert guest.stdout is not None
        for line in guest.stdout:
            seen.append(line)
            if "BdsDxe: starting Boot" in line:
                break
        guest.terminate()
    assert 'starting Boot0001 "UEFI uvfio NVMe controller uvfio-0000:00:01.0 1"' in seen[-1], "".join(seen)
