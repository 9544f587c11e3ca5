# SPDX-License-Identifier: GPL-2.0-only
"""
BAR memory as a dma-buf. Mirrors ``drivers/vfio/pci/vfio_pci_dmabuf.c``.

A dma-buf does not keep the device open: it is revoked while the memory does not decode,
and for good when the device is closed. Difference from Linux: what an importer maps is
the model of the BAR itself, so a peer's access is an access of its registers.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, ENOMEM, EOVERFLOW

from uvfio.linux.base.pci import PciDev
from uvfio.linux.kernel.dma_buf import DmaBuf, dma_buf_export
from uvfio.linux.kernel.fs import O_CLOEXEC, File, fd_install, fput, get_unused_fd_flags, put_unused_fd
from uvfio.linux.kernel.process import PinnedPages
from uvfio.linux.kernel.uaccess import copy_from_user
from uvfio.linux.vfio import main
from uvfio.linux.vfio.pci import config
from uvfio.linux.vfio.pci.private import PAGE_SIZE, VfioPciCoreDevice
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi.vfio import (
    VFIO_DEVICE_FEATURE_GET,
    VFIO_PCI_ROM_REGION_INDEX,
    vfio_device_feature_dma_buf,
    vfio_region_dma_range,
)

O_ACCMODE = 3
KMALLOC_MAX_SIZE = 4 << 20
U64_MAX = (1 << 64) - 1


class BarPages:
    """Part of a BAR, as memory that a device reaches (:class:`PinnedPages`)."""

    def __init__(self, pdev: PciDev, bar: int, offset: int, length: int) -> None:
        self.pdev = pdev
        self.bar = bar
        self.offset = offset
        self.length = length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        for at in range(0, len(buffer), 4):
            n = min(4, len(buffer) - at)
            value = self.pdev.model.bar_read(self.bar, self.offset + offset + at, n)
            buffer[at : at + n] = value.to_bytes(n, "little")

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        for at in range(0, len(data), 4):
            piece = bytes(data[at : at + 4])
            self.pdev.model.bar_write(self.bar, self.offset + offset + at, len(piece), int.from_bytes(piece, "little"))

    def phys(self, offset: int) -> int:
        return self.pdev.bars[self.bar].addr + self.offset + offset

    def contiguous(self, offset: int) -> int:
        return self.length - offset

    def unpin(self) -> None:
        """A BAR is not memory that could go away."""


class VfioPciDmaBuf:
    """
    ``struct vfio_pci_dma_buf``: ties a dma-buf to its device until either goes; until
    then it holds a registration of the device, so that *core* can be used.
    """

    def __init__(self, core: VfioPciCoreDevice) -> None:
        self.core: VfioPciCoreDevice | None = core
        self.dmabuf: DmaBuf
        self.file: File

    def released(self, dmabuf: DmaBuf) -> None:
        core = self.core
        if core is not None:
            with core.memory_lock.write():
                core.dmabufs.remove(self)
            main.vfio_device_put_registration(core.vdev)
        kfree(dmabuf)


def vfio_pci_core_feature_dma_buf(core: VfioPciCoreDevice, flags: int, arg: int, argsz: int) -> int:
    head = vfio_device_feature_dma_buf
    if not main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_GET, head.size_of):
        return 0
    wanted = head.unpack(copy_from_user(arg, head.size_of))
    if not wanted.nr_ranges or wanted.flags:
        raise Errno(EINVAL)
    if wanted.region_index >= VFIO_PCI_ROM_REGION_INDEX or not core.pdev.bars[wanted.region_index].size:
        raise Errno(ENODEV)
    one = vfio_region_dma_range
    if wanted.nr_ranges * one.size_of > KMALLOC_MAX_SIZE:
        raise Errno(ENOMEM)
    raw = copy_from_user(arg + head.size_of, wanted.nr_ranges * one.size_of)
    ranges = [one.unpack(raw[at : at + one.size_of]) for at in range(0, len(raw), one.size_of)]
    if core.pdev.bars[wanted.region_index].kind == "io":
        raise Errno(EINVAL)
    size = validate_dmabuf_input(core.pdev.bars[wanted.region_index].size, ranges)
    memory: PinnedPages | None = None
    if len(ranges) == 1:
        memory = BarPages(core.pdev, wanted.region_index, ranges[0].offset, size)
    fd = get_unused_fd_flags(wanted.open_flags & O_CLOEXEC)
    if not main.vfio_device_try_get_registration(core.vdev):
        put_unused_fd(fd)
        raise Errno(ENODEV)
    private = VfioPciDmaBuf(core)
    private.dmabuf = kzalloc(DmaBuf, size, memory, private.released)
    private.file = dma_buf_export(private.dmabuf, wanted.open_flags & O_ACCMODE)
    with core.memory_lock.write():
        core.dmabufs.append(private)
        vfio_pci_dma_buf_move(core, not config.vfio_pci_memory_enabled(core))
    fd_install(fd, private.file)
    return fd


def validate_dmabuf_input(bar_size: int, ranges: list[vfio_region_dma_range]) -> int:
    """The sum of the lengths."""
    total = 0
    if any(not each.length or (each.offset | each.length) & (PAGE_SIZE - 1) for each in ranges):
        raise Errno(EINVAL)
    for each in ranges:
        if each.offset + each.length > U64_MAX:
            raise Errno(EOVERFLOW)
        if each.offset + each.length > bar_size:
            raise Errno(EINVAL)
        total += each.length
    return total


def vfio_pci_dma_buf_move(core: VfioPciCoreDevice, revoked: bool) -> None:
    """Revoke all dma-bufs of the device, or give them back; under ``memory_lock`` for writing."""
    for private in core.dmabufs:
        if private.dmabuf.revoked != revoked:
            if revoked:
                private.dmabuf.revoke()
            else:
                private.dmabuf.restore()


def vfio_pci_dma_buf_cleanup(core: VfioPciCoreDevice) -> None:
    """The device is closed: nobody gets at it any more."""
    parted: list[VfioPciDmaBuf] = []
    with core.memory_lock.write():
        vfio_pci_dma_buf_move(core, True)
        for private in list(core.dmabufs):
            # One whose release is under way takes itself off the list.
            if private.file.f_count.inc_not_zero():
                private.core = None
                core.dmabufs.remove(private)
                parted.append(private)
    for private in parted:
        main.vfio_device_put_registration(core.vdev)
        fput(private.file)
