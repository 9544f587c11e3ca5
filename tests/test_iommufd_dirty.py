# SPDX-License-Identifier: GPL-2.0-only
"""Dirty tracking at a scale at which looking at what is clean would be noticed."""

from __future__ import annotations

import re
import struct

import pytest
from selftest_machine import PG, Selftest, with_selftest

from uvfio.linux.iommufd import iova_bitmap
from uvfio.linux.kernel.uaccess import copy_to_user
from uvfio.uapi import iommufd_test as uapi


def test_a_dirty_bitmap_of_a_tebibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in chunks, of which those that are clean cost no write, and the others as many as have dirty bits."""
    written: list[int] = []

    def store(addr: int, data: bytes) -> None:
        written.append(len(data))
        copy_to_user(addr, data)

    monkeypatch.setattr(iova_bitmap, "copy_to_user", store)

    @with_selftest
    def test(t: Selftest) -> None:
        gib, chunk = 1 << 30, 1 << 34
        _stdev, _hwpt, idev = t.mock()
        kind = t.buffer(8)
        t.process.mm.write(kind, struct.pack("<2I", 0, uapi.MOCK_IOMMUPT_HUGE))
        big = t.ioas()
        args = (0, 2, idev, big, 0, 0, uapi.IOMMU_HWPT_DATA_SELFTEST, 8, kind, 0, 0)
        hwpt = struct.unpack_from("<I", t.call(0x3B89, "8IQ2I", *args)[1], 16)[0]
        assert t.call(0x3B8B, "4I", 0, 1, hwpt, 0)[0] == 0
        memory = t.buffer(gib)
        for iova in range(0, 1 << 40, gib):
            assert t.map(big, memory, gib, iova, 7)[0] == 0
        bits = t.buffer(PG)
        t.process.mm.write(bits, b"\x01")
        soiled = [3 * PG, chunk - PG, 40 * chunk + 5 * PG]
        for iova in soiled:
            assert t.test("DIRTY", hwpt, iova=iova, length=PG, page_size=PG, uptr=bits)[0] == 0
        bitmap = t.buffer(chunk // PG // 8)
        found = []
        for start in range(0, 1 << 40, chunk):
            assert t.call(0x3B8C, "4I4Q", 0, hwpt, 0, 0, start, chunk, PG, bitmap)[0] == 0
            data = t.process.mm.read(bitmap, chunk // PG // 8)
            for match in re.finditer(rb"[^\0]", data):
                first = start + match.start() * 8 * PG
                found += [first + bit * PG for bit in range(8) if match[0][0] >> bit & 1]
            t.process.mm.write(bitmap, bytes(len(data)))
        assert found == soiled
        assert written == [1] * len(soiled)

    test()
