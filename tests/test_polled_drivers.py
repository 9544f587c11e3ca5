# SPDX-License-Identifier: GPL-2.0-only
"""Drivers in user space, in C and in Rust: mapped registers and polled memory only, as SPDK's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from clients_build import CLIENTS, build, uvfio_run
from shared import need_program

pytestmark = pytest.mark.live

# What nvme_client.c prints of a disk of 8 MiB.
NVME = [
    "model uvfio NVMe controller, serial uvfio-0000:00:01.0",
    "blocks 16384",
    "32 pieces written and read back, wrong: 0",
    "1000 commands, 32 at a time, wrong: 0",
    "past the end 0x80, unknown 0x1, no such namespace 0xb",
    "after a reset: read 0",
]


def printed(program: Path, *args: str, devices: tuple[str, ...]) -> list[str]:
    run = uvfio_run([program, *args], devices=devices)
    assert run.stderr == ""
    assert run.returncode == 0
    return run.stdout.splitlines()


def test_nvme_in_c(tmp_path: Path) -> None:
    client = build(tmp_path / "nvme", ["nvme_client.c", "nvme_queue.c", "client_lib.c"])
    disk = tmp_path / "disk"
    assert printed(client, "8", devices=(f"nvme,file={disk},size=8M",)) == NVME
    # Piece n is what this generator gives from n on.
    value, expected = 3, bytearray()
    for _ in range(64):
        value = (value * 1103515245 + 12345) & 0xFFFFFFFF
        expected.append(value >> 16 & 0xFF)
    assert disk.read_bytes()[3 << 18 :][:64] == expected


def test_ioat_in_c(tmp_path: Path) -> None:
    client = build(tmp_path / "ioat", ["ioat_client.c", "nvme_queue.c", "client_lib.c"])
    assert printed(client, devices=("ioat",)) == [
        "version 0x32, channels 1",
        "320 copies of 16 KiB, wrong: 0",
        "fill: 88 77 11 .. 88, behind it 51",
        "suspended: state 2, status the same, resumed: done",
        "unmapped source: state 3, CHANERR 0x100, after a reset: state 1",
    ]


def test_both_in_rust(tmp_path: Path) -> None:
    rustc = need_program("rustc", "rustc")
    program = tmp_path / "polled"
    subprocess.run([rustc, "--edition", "2021", "-O", "-o", program, CLIENTS / "polled.rs"], check=True)
    assert printed(program, devices=("nvme", "ioat")) == [
        "NVMe: 32 written, 32 read, failed 0, equal true",
        "I/OAT: 8 copies, equal true",
    ]
