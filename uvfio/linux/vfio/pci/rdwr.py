# SPDX-License-Identifier: GPL-2.0-only
"""
Access to the regions of a device. Mirrors ``drivers/vfio/pci/vfio_pci_rdwr.c``, and what
``vfio_pci_mmap_page_fault()`` decides of ``vfio_pci_core.c``.

Differences from Linux: no expansion ROM, no VGA; user memory is copied before and after
the device is accessed, not piece by piece.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, EIO, ENODEV, ENOSPC

from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio import virqfd
from uvfio.linux.vfio.pci import config
from uvfio.linux.vfio.pci.private import (
    PCI_STD_NUM_BARS,
    VfioPciCoreDevice,
    VfioPciIoeventfd,
    vfio_pci_region_at,
)
from uvfio.runtime.errors import Errno
from uvfio.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_IO
from uvfio.uapi.vfio import VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_NUM_REGIONS

VFIO_PCI_IOEVENTFD_MAX = 1000


def vfio_pci_rw(core: VfioPciCoreDevice, buf: int, count: int, pos: int, write: bool) -> int:
    index, offset = vfio_pci_region_at(core, pos)
    if index >= VFIO_PCI_NUM_REGIONS:
        raise Errno(EINVAL)
    if index < PCI_STD_NUM_BARS:
        return vfio_pci_bar_rw(core, buf, count, index, offset, write)
    if index == VFIO_PCI_CONFIG_REGION_INDEX:
        return config.vfio_pci_config_rw(core, buf, count, offset, write)
    raise Errno(EINVAL, "the device has no ROM and no VGA registers")


def vfio_pci_bar_rw(core: VfioPciCoreDevice, buf: int, count: int, index: int, offset: int, write: bool) -> int:
    bar = core.pdev.bars[index]
    if offset >= bar.size:
        raise Errno(EINVAL)
    count = min(count, bar.size - offset)
    if write:
        vfio_pci_core_do_io_rw(core, index, offset, bytearray(copy_from_user(buf, count)), True)
    else:
        data = bytearray(count)
        vfio_pci_core_do_io_rw(core, index, offset, data, False)
        copy_to_user(buf, bytes(data))
    return count


def vfio_pci_core_do_io_rw(core: VfioPciCoreDevice, index: int, offset: int, data: bytearray, write: bool) -> None:
    """
    Move *data* to or from the BAR in naturally aligned pieces. The table of MSI-X is
    the kernel's: it reads as ones, and what is written to it is dropped.
    """
    hidden, visible = 0, 0
    if index == core.msix_bar:
        hidden, visible = core.msix_offset, core.msix_offset + core.msix_size
    end = offset + len(data)
    at = offset
    core.memory_lock.down_read()
    try:
        while at < end:
            if hidden <= at < visible:
                size = min(end, visible) - at
                if not write:
                    data[at - offset : at - offset + size] = b"\xff" * size
            else:
                room = (min(end, hidden) if at < hidden else end) - at
                size = next(n for n in (8, 4, 2, 1) if n <= room and at % n == 0)
                if write:
                    piece = data[at - offset : at - offset + size]
                    vfio_pci_core_iowrite(core, index, at, size, int.from_bytes(piece, "little"))
                else:
                    value = vfio_pci_core_ioread(core, index, at, size)
                    data[at - offset : at - offset + size] = value.to_bytes(size, "little")
            at += size
    finally:
        core.memory_lock.up_read()


def vfio_pci_core_ioread(core: VfioPciCoreDevice, index: int, at: int, size: int) -> int:
    """Errno EIO while the device's memory does not decode; at a port nobody answers then."""
    lockdep_assert_held(core.memory_lock)
    model = core.pdev.model
    if not _decodes(core, index):
        return (1 << 8 * size) - 1
    if size == 8 and core.pdev.bars[index].kind == "io":  # a port is 4 bytes wide
        return model.bar_read(index, at, 4) | model.bar_read(index, at + 4, 4) << 32
    return model.bar_read(index, at, size)


def vfio_pci_core_iowrite(core: VfioPciCoreDevice, index: int, at: int, size: int, value: int) -> None:
    lockdep_assert_held(core.memory_lock)
    model = core.pdev.model
    if not _decodes(core, index):
        return
    if size == 8 and core.pdev.bars[index].kind == "io":
        model.bar_write(index, at, 4, value & 0xFFFF_FFFF)
        model.bar_write(index, at + 4, 4, value >> 32)
    else:
        model.bar_write(index, at, size, value)


def _decodes(core: VfioPciCoreDevice, index: int) -> bool:
    if core.pdev.bars[index].kind == "io":
        return bool(core.pdev.config.read(PCI_COMMAND, 2) & PCI_COMMAND_IO)
    if not config.vfio_pci_memory_enabled(core):
        raise Errno(EIO)
    return True


def vfio_pci_mmap_access(core: VfioPciCoreDevice, pos: int, size: int, value: int | None) -> int:
    """
    One access of *size* bytes through a mapping, at file offset *pos*: a read when
    *value* is None. Errno EIO where Linux raises SIGBUS.
    """
    index, offset = vfio_pci_region_at(core, pos)
    if index >= PCI_STD_NUM_BARS or offset + size > core.pdev.bars[index].size:
        raise Errno(EIO)
    core.memory_lock.down_read()
    try:
        if core.pm_runtime_engaged or not config.vfio_pci_memory_enabled(core):
            raise Errno(EIO)
        if value is None:
            return core.pdev.model.bar_read(index, offset, size)
        core.pdev.model.bar_write(index, offset, size, value)
        return 0
    finally:
        core.memory_lock.up_read()


def vfio_pci_ioeventfd_handler(core: VfioPciCoreDevice, ioeventfd: VfioPciIoeventfd) -> None:
    value = ioeventfd.data & (1 << 8 * ioeventfd.count) - 1
    core.memory_lock.down_read()
    try:
        vfio_pci_core_iowrite(core, ioeventfd.bar, ioeventfd.pos, ioeventfd.count, value)
    except Errno:
        return  # nobody is there to be told that the memory does not decode
    finally:
        core.memory_lock.up_read()


def vfio_pci_ioeventfd(core: VfioPciCoreDevice, offset: int, data: int, count: int, fd: int) -> None:
    """Write *data* to the BAR whenever the eventfd *fd* is signalled; -1: stop that."""
    bar, pos = vfio_pci_region_at(core, offset)
    if bar >= PCI_STD_NUM_BARS or pos + count > core.pdev.bars[bar].size:
        raise Errno(EINVAL)
    if bar == core.msix_bar and pos + count > core.msix_offset and pos < core.msix_offset + core.msix_size:
        raise Errno(EINVAL, "the table of MSI-X is the kernel's")
    with core.ioeventfds_lock:
        for ioeventfd in core.ioeventfds:
            if (ioeventfd.bar, ioeventfd.pos, ioeventfd.data, ioeventfd.count) == (bar, pos, data, count):
                if fd != -1:
                    raise Errno(EEXIST)
                ioeventfd.virqfd.disable()
                core.ioeventfds.remove(ioeventfd)
                return
        if fd < 0:
            raise Errno(ENODEV)
        if len(core.ioeventfds) >= VFIO_PCI_IOEVENTFD_MAX:
            raise Errno(ENOSPC)
        new = VfioPciIoeventfd(bar, pos, data, count)
        new.virqfd = virqfd.vfio_virqfd_enable(None, lambda: vfio_pci_ioeventfd_handler(core, new), fd)
        core.ioeventfds.append(new)


def vfio_pci_ioeventfds_free(core: VfioPciCoreDevice) -> None:
    with core.ioeventfds_lock:
        for ioeventfd in core.ioeventfds:
            ioeventfd.virqfd.disable()
        core.ioeventfds.clear()
