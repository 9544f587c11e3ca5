# SPDX-License-Identifier: GPL-2.0-only
"""The NVMe controller: commands of the NVM command set, PRPs and SGLs."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from nvme_host import DATA, PAGE, Host

from uvfio.devices.nvme import Nvme

WRITE, READ, COMPARE, ZEROES, DSM, VERIFY = 1, 2, 5, 8, 9, 12
LIST = 0xA000


@pytest.fixture
def host() -> Host:
    return Host().create_queues()


def content(host: Host, offset: int, length: int) -> bytes:
    data = memoryview(bytearray(length))
    host.nvme.namespaces[0].read_into(offset, data)
    return bytes(data)


def pattern(length: int) -> bytes:
    return bytes(i * 7 + (i >> 8) & 0xFF for i in range(length))


def test_write_then_read(host: Host) -> None:
    data = pattern(1024)
    host.memory[DATA : DATA + 1024] = data
    assert host.io(WRITE, lba=5, blocks=2).status == 0
    assert content(host, 5 * 512, 1024) == data
    assert host.io(READ, lba=5, blocks=2, prp=(DATA + PAGE, 0)).status == 0
    assert host.memory[DATA + PAGE : DATA + PAGE + 1024] == data


def test_two_pages_by_the_second_prp(host: Host) -> None:
    host.memory[DATA + 0x800 : DATA + 0x1800] = pattern(4096)
    assert host.io(WRITE, blocks=8, prp=(DATA + 0x800, DATA + PAGE)).status == 0
    assert content(host, 0, 4096) == pattern(4096)
    assert host.io(READ, blocks=8, prp=(DATA + 0x800, DATA + PAGE + 8)).status == 0x13


@pytest.mark.parametrize("list_offset", [0, PAGE - 16], ids=["one page", "linked"])
def test_prp_lists(host: Host, list_offset: int) -> None:
    pages = [0x20000 + PAGE * n for n in (0, 1, 2, 9, 8, 7)]
    data = pattern(PAGE * (len(pages) + 1))
    entries = pages
    if list_offset:
        second = LIST + PAGE
        host.memory[second : second + 8 * 5] = struct.pack("<5Q", *pages[1:])
        entries = [pages[0], second]
    at = LIST + list_offset
    host.memory[at : at + 8 * len(entries)] = struct.pack(f"<{len(entries)}Q", *entries)
    host.nvme.namespaces[0].write_from(0, memoryview(data))
    host.slot.transfers.clear()
    assert host.io(READ, blocks=len(data) // 512, prp=(DATA, at)).status == 0
    got = b"".join(host.memory[page : page + PAGE] for page in [DATA, *pages])
    assert got == data
    written = [(iova, n) for kind, iova, n in host.slot.transfers if kind == "write"]
    assert written[:2] == [(DATA, PAGE), (0x20000, 3 * PAGE)]  # neighbours in one piece


def test_a_list_of_links_only_ends(host: Host) -> None:
    at = LIST + PAGE - 8
    host.memory[at : at + 8] = struct.pack("<Q", at)
    assert host.io(READ, blocks=64, prp=(DATA, at)).status == 0x13


def sgl(*descriptors: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QI3xB", address, length, kind << 4) for address, length, kind in descriptors)


def with_sgl(host: Host, opcode: int, descriptor: tuple[int, int, int], **rest: Any) -> int:
    return host.io(opcode, prp=struct.unpack("<QQ", sgl(descriptor)), flags=0x40, **rest).status


def test_sgl_data_block_without_alignment(host: Host) -> None:
    host.memory[DATA + 3 : DATA + 515] = pattern(512)
    assert with_sgl(host, WRITE, (DATA + 3, 512, 0)) == 0
    assert content(host, 0, 512) == pattern(512)


def test_sgl_segments_and_bit_buckets(host: Host) -> None:
    data = pattern(1024)
    host.nvme.namespaces[0].write_from(0, memoryview(data))
    first = sgl((DATA, 100, 0), (0, 200, 1), (LIST + 0x100, 32, 3))
    second = sgl((DATA + 0x1001, 300, 0), (DATA + 0x2000, 4096, 0))
    host.memory[LIST : LIST + len(first)] = first
    host.memory[LIST + 0x100 : LIST + 0x100 + len(second)] = second
    assert with_sgl(host, READ, (LIST, len(first), 2), blocks=2) == 0
    assert host.memory[DATA : DATA + 100] == data[:100]
    assert host.memory[DATA + 0x1001 : DATA + 0x1001 + 300] == data[300:600]
    assert host.memory[DATA + 0x2000 : DATA + 0x2000 + 424] == data[600:]
    assert host.memory[DATA + 0x2000 + 424] == 0


@pytest.mark.parametrize(
    ("descriptor", "segment", "status"),
    [
        ((DATA, 511, 0), b"", 0x0F),
        ((DATA, 512, 5), b"", 0x11),
        ((LIST, 15, 3), b"", 0x0D),
        ((LIST, 0, 2), b"", 0x0D),
        ((LIST, 16, 3), sgl((LIST, 16, 3)), 0x0D),
        ((LIST, 32, 2), sgl((LIST, 16, 3), (DATA, 512, 0)), 0x0D),
        ((LIST, 16, 2), sgl((LIST, 16, 2)), 0x0E),
        ((1 << 40, 16, 3), b"", 0x04),
    ],
)
def test_bad_sgls(host: Host, descriptor: tuple[int, int, int], segment: bytes, status: int) -> None:
    host.memory[LIST : LIST + len(segment)] = segment
    assert with_sgl(host, READ, descriptor) == status


def test_reserved_data_pointer(host: Host) -> None:
    assert host.io(READ, flags=0xC0).status == 0x02


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ({"opcode": 0x7F}, 0x01),
        ({"opcode": READ, "nsid": 0}, 0x0B),
        ({"opcode": READ, "nsid": 2}, 0x0B),
        ({"opcode": READ, "lba": 2048}, 0x80),
        ({"opcode": READ, "lba": 2047, "blocks": 2}, 0x80),
        ({"opcode": WRITE, "lba": 1 << 63}, 0x80),
        ({"opcode": READ, "blocks": 2049}, 0x02),
        ({"opcode": READ, "prp": (DATA + 2, 0)}, 0x13),
        ({"opcode": READ, "flags": 1}, 0x02),
        ({"opcode": READ, "prp": (1 << 40, 0)}, 0x04),
        ({"opcode": ZEROES, "lba": 2048}, 0x80),
    ],
)
def test_bad_commands(host: Host, what: dict[str, int], status: int) -> None:
    assert host.io(**what).status == status
    assert host.io(READ).status == 0


def test_a_blocked_write_changes_nothing(host: Host) -> None:
    host.slot.holes.add(DATA + PAGE)
    host.memory[DATA : DATA + PAGE] = pattern(PAGE)
    assert host.io(WRITE, blocks=16, prp=(DATA, DATA + PAGE)).status == 0x04
    assert content(host, 0, 8192) == bytes(8192)


def test_compare(host: Host) -> None:
    assert host.io(COMPARE, blocks=2).status == 0
    host.memory[DATA + 1023] = 1
    assert host.io(COMPARE, blocks=2).status == 0x285
    assert host.io(VERIFY, blocks=8).status == 0


def test_zeroes_and_deallocation(host: Host) -> None:
    host.nvme.namespaces[0].write_from(0, memoryview(b"\xff" * 8192))
    assert host.io(ZEROES, lba=1, blocks=2).status == 0
    host.memory[DATA : DATA + 32] = struct.pack("<IIQIIQ", 0, 1, 4, 0, 2, 6)
    assert host.io(DSM, cdw10=1, cdw11=1).status == 0  # no deallocation: a hint
    assert content(host, 4 * 512, 512) == b"\xff" * 512
    assert host.io(DSM, cdw10=1, cdw11=4).status == 0
    blocks = [content(host, 512 * n, 512) for n in range(9)]
    assert [block == bytes(512) for block in blocks] == [n in (1, 2, 4, 6, 7) for n in range(9)]
    host.memory[DATA : DATA + 16] = struct.pack("<IIQ", 0, 2, 2047)
    assert host.io(DSM, cdw10=0, cdw11=4).status == 0x80


def test_a_file_has_what_was_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    host = Host(Nvme(file=str(disk), size="1M", block="4096")).create_queues()
    host.memory[DATA : DATA + PAGE] = pattern(PAGE)
    assert host.io(WRITE, lba=3).status == 0
    assert host.io(0x00, nsid=0xFFFFFFFF).status == 0
    assert disk.stat().st_size == 1 << 20
    assert disk.read_bytes()[3 * PAGE : 4 * PAGE] == pattern(PAGE)
    os.truncate(disk, 2 * PAGE)
    assert host.io(READ, lba=3).status == 0x281


@pytest.mark.parametrize(("fua", "cache", "flushes"), [(0, 1, 0), (1 << 30, 1, 1), (0, 0, 1)])
def test_what_must_not_stay_in_the_cache(
    host: Host, monkeypatch: pytest.MonkeyPatch, fua: int, cache: int, flushes: int
) -> None:
    calls: list[int] = []
    assert host.admin(0x09, cdw10=6, cdw11=cache).status == 0
    monkeypatch.setattr(os, "fdatasync", calls.append)
    assert host.io(WRITE, cdw12=fua).status == 0
    assert len(calls) == flushes


def test_read_only(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 4096)
    host = Host(Nvme(file=str(disk), readonly="yes")).create_queues()
    assert host.io(READ).status == 0
    assert [host.io(opcode, cdw11=0).status for opcode in (WRITE, ZEROES)] == [0x20, 0x20]
    assert host.io(DSM, cdw10=0, cdw11=4, prp=(0x20000, 0)).status == 0x20
    assert host.io(0x00).status == 0
    assert disk.read_bytes() == b"x" * 4096


def test_larger_pages() -> None:
    host = Host(mps=1).create_queues()
    host.nvme.namespaces[0].write_from(0, memoryview(pattern(16384)))
    assert host.io(READ, blocks=32, prp=(DATA, DATA + 2 * PAGE)).status == 0
    assert host.memory[DATA : DATA + 16384] == pattern(16384)


def test_smart_counts(host: Host) -> None:
    for _ in range(3):
        host.io(WRITE, blocks=8)
    host.io(READ, blocks=8)
    assert host.admin(0x02, cdw10=127 << 16 | 2).status == 0
    counted = [int.from_bytes(host.memory[DATA + at : DATA + at + 16], "little") for at in (32, 48, 64, 80)]
    assert counted == [1, 1, 1, 3]
