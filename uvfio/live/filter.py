# SPDX-License-Identifier: GPL-2.0-only
"""
The seccomp filter of a client: which system calls the supervisor is asked about.

Everything that cannot concern us runs at native speed. The program is classic BPF,
x86-64 only: calls of another architecture run natively, x32 calls and io_uring
(which would go around the filter) answer ENOSYS. Never notified are close, fork,
futex, poll, ordinary reads and writes, and dup of an fd that is not of ours: a signal handler without SA_RESTART that
hits the window before the supervisor has received the call makes it fail with
EINTR, and programs do not expect that of those. Difference from Linux: an ioctl of
another type byte than VFIO's and KVM's is answered by the host, for the file that stands
for ours: ENOTTY, where iommufd might have looked at its argument first.
"""

from __future__ import annotations

import ctypes
import struct
from errno import ENOSYS

from uvfio.live.sysno import SYS

AUDIT_ARCH_X86_64 = 0xC000003E
X32_SYSCALL_BIT = 0x40000000

RET_ALLOW = 0x7FFF0000
RET_USER_NOTIF = 0x7FC00000
RET_ERRNO = 0x00050000

# Region offsets that we give out have this in bits 48 to 63, so that a read, write or
# mmap of a device region is recognised whatever the number of its fd.
REGION_TAG = 0x56

_NR, _ARCH, _ARGS = 0, 4, 16

_LD_ABS, _JEQ, _JGE, _RET, _AND, _RSH = 0x20, 0x15, 0x35, 0x06, 0x54, 0x74

PATH_CALLS = (
    *("open", "openat", "openat2", "creat", "stat", "lstat", "newfstatat", "statx", "readlink", "readlinkat"),
    *("access", "faccessat", "faccessat2", "chdir", "getcwd", "statfs", "fstatfs"),
    *("getxattr", "lgetxattr", "listxattr", "llistxattr"),
)
FD_CALLS = (
    *("read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2"),
    *("mmap", "fstat", "lseek", "ftruncate"),
)
DUP_CALLS = ("dup", "dup2", "dup3")
F_DUPFD, F_DUPFD_CLOEXEC = 0, 1030
TAGGED_OFFSET = {"pread64": 3, "pwrite64": 3, "preadv": 3, "pwritev": 3, "mmap": 5}


class _Program:
    """Collects instructions; each check of a call ends with a return."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []

    def op(self, code: int, k: int, jt: int = 0, jf: int = 0) -> None:
        self.code.append((code, jt, jf, k & 0xFFFFFFFF))

    def on_call(self, nr: int, body: list[tuple[int, int, int, int]]) -> None:
        self.op(_JEQ, nr, 0, len(body))
        self.code += body

    def pack(self) -> bytes:
        return b"".join(struct.pack("<HBBI", *instruction) for instruction in self.code)


def _ret(value: int) -> tuple[int, int, int, int]:
    return (_RET, 0, 0, value)


def _low(arg: int) -> tuple[int, int, int, int]:
    return (_LD_ABS, 0, 0, _ARGS + 8 * arg)


def _high(arg: int) -> tuple[int, int, int, int]:
    return (_LD_ABS, 0, 0, _ARGS + 8 * arg + 4)


def _notify_fd_at_least(arg: int, base: int) -> list[tuple[int, int, int, int]]:
    """fd in *base* .. INT_MAX: ask; then go on with what follows."""
    return [_low(arg), (_JGE, 0, 2, base), (_JGE, 1, 0, 0x80000000), _ret(RET_USER_NOTIF)]


def _ask_kvm(modelled_kvm: bool) -> list[tuple[int, int, int, int]]:
    """KVM_CREATE_DEVICE to KVM_HAS_DEVICE_ATTR, and what /dev/kvm knows if that is ours; never KVM_RUN."""
    code = [_low(1), (_AND, 0, 0, 0xFF), (_JGE, 0, 2, 0xE0), (_JGE, 1, 0, 0xE4), _ret(RET_USER_NOTIF)]
    if modelled_kvm:
        code += [(_JGE, 1, 0, 0x05), _ret(RET_USER_NOTIF)]
    return code


def assemble(base: int, modelled_kvm: bool = False) -> bytes:
    """
    The filter for clients in which fd numbers from *base* on are ours to give. With
    *modelled_kvm* they open our /dev/kvm, else the host's.
    """
    p = _Program()
    p.op(_LD_ABS, _ARCH)
    p.op(_JEQ, AUDIT_ARCH_X86_64, 1, 0)
    p.op(_RET, RET_ALLOW)
    p.op(_LD_ABS, _NR)
    p.op(_JGE, X32_SYSCALL_BIT, 0, 1)
    p.op(_RET, RET_ERRNO | ENOSYS)
    is_ours = [_low(1), (_AND, 0, 0, 0xFF00), (_JEQ, 0, 1, 0x3B00), _ret(RET_USER_NOTIF)]
    of_kvm = _ask_kvm(modelled_kvm)
    p.on_call(SYS["ioctl"], [*is_ours, (_JEQ, 0, len(of_kvm), 0xAE00), *of_kvm, _ret(RET_ALLOW)])
    for name in PATH_CALLS:
        p.on_call(SYS[name], [_ret(RET_USER_NOTIF)])
    for name in FD_CALLS:
        body = _notify_fd_at_least(4 if name == "mmap" else 0, base)
        if name in TAGGED_OFFSET:
            body += [_high(TAGGED_OFFSET[name]), (_RSH, 0, 0, 16), (_JEQ, 0, 1, REGION_TAG), _ret(RET_USER_NOTIF)]
        p.on_call(SYS[name], [*body, _ret(RET_ALLOW)])
    for name in DUP_CALLS:
        p.on_call(SYS[name], [*_notify_fd_at_least(0, base), _ret(RET_ALLOW)])
    is_dup = [_low(1), (_JEQ, 2, 0, F_DUPFD), (_JEQ, 1, 0, F_DUPFD_CLOEXEC), _ret(RET_ALLOW)]
    p.on_call(SYS["fcntl"], [*is_dup, *_notify_fd_at_least(0, base), _ret(RET_ALLOW)])
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        p.on_call(SYS[name], [_ret(RET_ERRNO | ENOSYS)])
    p.op(_RET, RET_ALLOW)
    return p.pack()


class SockFprog(ctypes.Structure):
    """``struct sock_fprog``; keeps the program it points to alive."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    def __init__(self, program: bytes) -> None:
        self.buffer = ctypes.create_string_buffer(program, len(program))
        super().__init__(len(program) // 8, ctypes.addressof(self.buffer))
