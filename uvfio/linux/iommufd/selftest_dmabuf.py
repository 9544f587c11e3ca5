# SPDX-License-Identifier: GPL-2.0-only
"""
The selftest's dma-bufs: a piece of memory to map, and to take away.

Mirrors that part of ``drivers/iommu/iommufd/selftest.c``. Difference from Linux:
IOMMU_TEST_OP_DMABUF_GET answers the number of the fd, which is what the selftest
program takes it for; Linux 7.3.4 installs the fd and answers 0.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommufd.private import PAGE_SIZE, IommufdUcmd
from uvfio.linux.kernel.dma_buf import DmaBuf, DmaBufFileOperations, dma_buf_export
from uvfio.linux.kernel.fs import O_CLOEXEC, fd_install, fget, fput, get_unused_fd_flags
from uvfio.linux.kernel.page_alloc import alloc_contig_range
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc

MAX_PAGES = 512
O_ACCMODE = 3


class IommufdTestDmaBuf:
    """``struct iommufd_test_dma_buf``: physically contiguous memory (:class:`PinnedPages`)."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.memory = bytearray(length)
        self.start = alloc_contig_range(length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(self.memory)[offset : offset + len(buffer)]

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        self.memory[offset : offset + len(data)] = data

    def phys(self, offset: int) -> int:
        return self.start + offset

    def contiguous(self, offset: int) -> int:
        return self.length - offset

    def unpin(self) -> None:
        """It goes with its dma-buf."""


def iommufd_test_dmabuf_get(_ucmd: IommufdUcmd, arg: Any) -> int:
    """A new dma-buf; the number of its fd. Errno EINVAL empty or too large."""
    length = -(-arg.length // PAGE_SIZE) * PAGE_SIZE
    if not length or length > MAX_PAGES * PAGE_SIZE:
        raise Errno(EINVAL)
    fd = get_unused_fd_flags(arg.open_flags & O_CLOEXEC)
    dmabuf = kzalloc(DmaBuf, length, IommufdTestDmaBuf(length), kfree)
    file = dma_buf_export(dmabuf, arg.open_flags & ~O_CLOEXEC)
    fd_install(fd, file)
    return fd


def iommufd_test_dmabuf_revoke(_ucmd: IommufdUcmd, arg: Any) -> None:
    """
    Whatever is mapped loses the memory for good; says too whether it may be mapped again.
    Errno EBADF, EINVAL no dma-buf, EOPNOTSUPP another exporter's.
    """
    file = fget(arg.dmabuf_fd)
    try:
        if not isinstance(file.f_op, DmaBufFileOperations):
            raise Errno(EINVAL)
        dmabuf: DmaBuf = file.private_data
        if not isinstance(dmabuf.memory, IommufdTestDmaBuf):
            raise Errno(EOPNOTSUPP)
        with dmabuf.resv:
            dmabuf.revoked = bool(arg.revoked)
            for invalidate in list(dmabuf.importers):
                invalidate()
    finally:
        fput(file)
