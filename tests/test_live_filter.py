# SPDX-License-Identifier: GPL-2.0-only
"""The seccomp program, run by a small interpreter of classic BPF."""

from __future__ import annotations

import struct

import pytest

from uvfio.live.filter import AUDIT_ARCH_X86_64, RET_ALLOW, RET_USER_NOTIF, assemble
from uvfio.live.sysno import SYS

BASE = 896
TAGGED = 0x56 << 48 | 7 << 40
ENOSYS = 0x00050000 | 38


def run_filter(nr: int, *args: int, arch: int = AUDIT_ARCH_X86_64, modelled_kvm: bool = False) -> int:
    data = struct.pack("<iIQ6Q", nr, arch, 0, *(a & (1 << 64) - 1 for a in [*args, *[0] * 6][:6]))
    code = list(struct.iter_unpack("<HBBI", assemble(BASE, modelled_kvm)))
    a = at = 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == 0x06:
            return k
        if op == 0x20:
            a = int(struct.unpack_from("<I", data, k)[0])
        elif op == 0x54:
            a &= k
        elif op == 0x74:
            a >>= k
        elif op == 0x15:
            at += jt if a == k else jf
        else:
            assert op == 0x35
            at += jt if a >= k else jf


@pytest.mark.parametrize(
    ("name", "args", "asked"),
    [
        ("ioctl", (3, 0x3B64), True),
        ("ioctl", (3, 0xC0403B85), True),
        ("ioctl", (3, 0x5401), False),
        ("openat", (-100, 0x1000), True),
        ("readlink", (0x1000,), True),
        ("read", (0, 0x1000, 10), False),
        ("read", (BASE, 0x1000, 10), True),
        ("read", (-1, 0x1000, 10), False),
        ("write", (BASE - 1, 0x1000, 10), False),
        ("pread64", (5, 0x1000, 4, 4096), False),
        ("pread64", (5, 0x1000, 4, TAGGED), True),
        ("pwrite64", (BASE, 0x1000, 4, 0), True),
        ("pread64", (5, 0x1000, 4, 0x57 << 48), False),
        ("mmap", (0, 4096, 3, 1, 5, TAGGED), True),
        ("mmap", (0, 4096, 3, 1, BASE + 1, 0), True),
        ("mmap", (0, 4096, 3, 0x22, -1, 0), False),
        ("dup2", (BASE, 1), True),
        ("dup2", (1, BASE), False),
        ("fcntl", (BASE, 1030, 10), True),
        ("fcntl", (BASE, 0, 10), True),
        ("fcntl", (BASE, 2, 1), False),
        ("fcntl", (1, 1030, 10), False),
        ("fstat", (3, 0x1000), False),
        ("fstat", (BASE, 0x1000), True),
    ],
)
def test_asks_only_about_what_may_be_ours(name: str, args: tuple[int, ...], asked: bool) -> None:
    assert run_filter(SYS[name], *args) == (RET_USER_NOTIF if asked else RET_ALLOW)


@pytest.mark.parametrize("nr", [3, 56, 57, 58, 202, 7, 232, 13, 14])
def test_never_asks_about_close_fork_futex_poll_and_signals(nr: int) -> None:
    assert run_filter(nr, BASE, BASE) == RET_ALLOW


def test_io_uring_and_x32_are_refused() -> None:
    assert run_filter(SYS["io_uring_setup"]) == ENOSYS
    assert run_filter(SYS["ioctl"] | 0x40000000, 3, 0x3B64) == ENOSYS


def test_another_architecture_is_left_alone() -> None:
    assert run_filter(SYS["ioctl"], 3, 0x3B64, arch=0x40000003) == RET_ALLOW
