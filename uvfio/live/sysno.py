# SPDX-License-Identifier: GPL-2.0-only
"""System call numbers of x86-64 (``asm/unistd_64.h``), as far as the supervisor needs them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SYS: Mapping[str, int] = MappingProxyType(
    {
        "read": 0,
        "write": 1,
        "open": 2,
        "stat": 4,
        "fstat": 5,
        "lstat": 6,
        "lseek": 8,
        "mmap": 9,
        "ioctl": 16,
        "pread64": 17,
        "pwrite64": 18,
        "readv": 19,
        "writev": 20,
        "access": 21,
        "dup": 32,
        "dup2": 33,
        "fcntl": 72,
        "ftruncate": 77,
        "getcwd": 79,
        "chdir": 80,
        "fchdir": 81,
        "creat": 85,
        "readlink": 89,
        "ptrace": 101,
        "statfs": 137,
        "fstatfs": 138,
        "getxattr": 191,
        "lgetxattr": 192,
        "listxattr": 194,
        "llistxattr": 195,
        "waitid": 247,
        "openat": 257,
        "newfstatat": 262,
        "readlinkat": 267,
        "faccessat": 269,
        "dup3": 292,
        "preadv": 295,
        "pwritev": 296,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "seccomp": 317,
        "preadv2": 327,
        "pwritev2": 328,
        "statx": 332,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "openat2": 437,
        "pidfd_getfd": 438,
        "faccessat2": 439,
    }
)
SYSCALL_NAME: Mapping[int, str] = MappingProxyType({number: name for name, number in SYS.items()})
