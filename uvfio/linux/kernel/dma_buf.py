# SPDX-License-Identifier: GPL-2.0-only
"""
Device memory behind an fd. Mirrors ``drivers/dma-buf/dma-buf.c``.

All differences from Linux: a buffer is one range of memory as an IOMMU maps it, or
none when its exporter cannot say it as one range; there are no fences, no
reservation object and no mapping of the fd itself.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from os import SEEK_END, SEEK_SET

from uvfio.linux.kernel.fs import File, FileOperations, Vma, anon_inode_getfile
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct


@kstruct("revoked")
class DmaBuf:
    """
    ``struct dma_buf``. *memory* is what an importer maps, None if it is no single
    range; *released()* is called when the last file reference is gone.
    """

    def __init__(self, size: int, memory: PinnedPages | None, released: Callable[[DmaBuf], None]) -> None:
        self.size = size
        self.memory = memory
        self.released = released
        self.file: File  # an importer holds a reference on it
        self.resv = Mutex("dma_buf.resv")
        self.revoked = False  # resv
        self.importers: list[Callable[[], None]] = []  # resv; each stops using the memory

    def revoke(self) -> None:
        """Take the memory away from every importer; none may map it until :meth:`restore`."""
        with self.resv:
            self.revoked = True
            for invalidate in list(self.importers):
                invalidate()

    def restore(self) -> None:
        with self.resv:
            self.revoked = False


class DmaBufFileOperations(FileOperations):
    """``dma_buf_fops``."""

    name = "dmabuf"
    positions = False

    def llseek(self, file: File, offset: int, whence: int) -> int:
        if offset != 0 or whence not in (SEEK_SET, SEEK_END):
            raise Errno(EINVAL)
        dmabuf: DmaBuf = file.private_data
        return dmabuf.size if whence == SEEK_END else 0

    def mmap(self, file: File, vma: Vma) -> None:
        raise Errno(EINVAL)  # no exporter here lets user space map it

    def release(self, file: File) -> None:
        dmabuf: DmaBuf = file.private_data
        dmabuf.released(dmabuf)


def dma_buf_export(dmabuf: DmaBuf, flags: int) -> File:
    """The file that stands for *dmabuf*, with one reference."""
    dmabuf.file = anon_inode_getfile(DmaBufFileOperations.name, DmaBufFileOperations(), dmabuf, flags)
    return dmabuf.file
