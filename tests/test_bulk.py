# SPDX-License-Identifier: GPL-2.0-only
"""Large copies from and to another process."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Iterator

import pytest

from uvfio.live import bulk

SIZE = 3 * bulk.PIECE + 12345  # several pieces, the last one odd


@pytest.fixture
def other() -> Iterator[tuple[int, int]]:
    """A process that waits, and the address of SIZE bytes of its own memory; the page after them is not there."""
    room = -(-SIZE // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    addr = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[:SIZE] = pattern(7)
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).munmap(ctypes.c_void_p(addr + room), ctypes.c_size_t(mmap.PAGESIZE))
        signal.pause()
        os._exit(0)
    yield pid, addr
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def pattern(seed: int) -> bytes:
    return (bytes((i * seed + (i >> 8)) & 0xFF for i in range(65536)) * (SIZE // 65536 + 1))[:SIZE]


def test_reads_all(other: tuple[int, int]) -> None:
    buffer = bytearray(SIZE)
    assert bulk.read_into(*other, memoryview(buffer))
    assert buffer == pattern(7)


def test_writes_all_even_from_a_read_only_buffer(other: tuple[int, int]) -> None:
    buffer = bytearray(SIZE)
    assert bulk.write_from(*other, memoryview(pattern(3)))
    assert bulk.read_into(*other, memoryview(buffer))
    assert buffer == pattern(3)


def test_says_when_something_is_missing(other: tuple[int, int]) -> None:
    pid, addr = other
    assert not bulk.read_into(pid, addr, memoryview(bytearray(SIZE + 2 * mmap.PAGESIZE)))
    assert not bulk.read_into(2**22 + 1, addr, memoryview(bytearray(SIZE)))
