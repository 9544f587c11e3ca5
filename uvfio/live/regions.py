# SPDX-License-Identifier: GPL-2.0-only
"""
Device regions that clients map.

Registers: the file behind a device ends before them, so each access is trapped
(``mmio.py``) and carried out here; or they are memory that is polled (``polling.py``), if the
device was plugged in like that or tracing is refused. Memory (``bar.ram``, and mdpy's framebuffer) lies
in the file, is mapped natively, and is what the model itself sees. Differences from Linux:
of several files open on one device at a time only the first has its memory natively, the
others reach it by trapping (mdpy's: not at all, SIGBUS); and for a device with such memory,
only mappings at the offsets that GET_REGION_INFO gave are trapped.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvfio.devices.kit import PciDevice
from uvfio.devices.mdpy import MEMORY_BAR_OFFSET, MdpyState
from uvfio.linux.kernel.fs import File, Vma, run_task_works
from uvfio.linux.vfio.pci.private import VfioPciCoreDevice, vfio_pci_region_at
from uvfio.linux.vfio.pci.rdwr import vfio_pci_mmap_access
from uvfio.linux.vfio.private import VfioDeviceFile
from uvfio.live.borrow import Borrower
from uvfio.live.client import LiveThread
from uvfio.live.fdcalls import untag
from uvfio.live.files import OpenFiles
from uvfio.live.filter import REGION_TAG
from uvfio.live.loop import Loop
from uvfio.live.mmio import Access, MmioTrapper
from uvfio.live.polling import PolledRegisters, PollingThread
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current

PAGE_SIZE = 4096


class Regions:
    """Of all devices; *exited* as in MmioTrapper. *guarded(body, ...)* calls *body* and reports what goes wrong."""

    def __init__(
        self,
        open_files: OpenFiles,
        loop: Loop,
        complain: Callable[[str], None],
        exited: Callable[[int, int], None],
        guarded: Callable[..., Any],
    ) -> None:
        self.open_files = open_files
        self.loop = loop
        self.complain = complain
        self.exited = exited
        self.guarded = guarded
        self._trapper: MmioTrapper | None = None
        self._poller: PollingThread | None = None
        self._memory_of: dict[Any, int] = {}  # owner of the first block: inode of the file that has the memory

    def furnish(self, file: File, memfd: int) -> bool:
        """*memfd* will stand for *file*: put the memory of its device there. True if it has registers."""
        blocks = _native_memory(file)
        if blocks and self._memory_of.get(blocks[0].owner) not in self.open_files.by_inode:
            self._fill(memfd, blocks)
        return _pci_core(file) is not None

    def _fill(self, memfd: int, blocks: list[_Block]) -> None:
        start = REGION_TAG << 48
        size = max(block.offset + _page_align(block.size) for block in blocks)
        os.ftruncate(memfd, start + size)
        view = memoryview(mmap.mmap(memfd, size, offset=start))
        for block in blocks:
            content = view[block.offset : block.offset + block.size]
            if block.owner.memory is not None:
                content[:] = block.owner.memory
            block.owner.memory = content
        self._memory_of[blocks[0].owner] = os.fstat(memfd).st_ino

    def mapped(self, thread: LiveThread, file: File, _vma: Vma) -> None:
        """A mapping of *file* is about to be made."""
        core = _pci_core(file)
        if core is None or file.host.polled is not None:
            return
        model = core.pdev.model
        if not isinstance(model, PciDevice) or not model.pollable:
            self._trap(thread)
            return
        instead = f"its mapped registers of {core.pdev.bdf} are polled, see docs/polling.md"
        if model.mmap == "poll" or not self._trap(thread, instead):
            self._poll(file, core, model)

    def released(self, file: File) -> None:
        """No client has *file* any more."""
        polled = file.host.polled
        if polled is not None and self._poller is not None:
            self._poller.remove(polled)
            polled.close()

    def _poll(self, file: File, core: VfioPciCoreDevice, model: PciDevice) -> None:
        memfd = self.open_files.backing(file.host.inode)
        if memfd is None:
            return  # every client has closed it meanwhile
        if self._poller is None:
            self._poller = PollingThread(self.loop, self.guarded)
        file.host.polled = polled = PolledRegisters(core, model, memfd)
        self._poller.add(polled)

    def _trap(self, thread: LiveThread, *instead: str) -> bool:
        if self._trapper is None:
            self._trapper = MmioTrapper(
                self._dispatch,
                self.complain,
                self.exited,
                self.open_files.owns,
                partial(Borrower, self.loop),
                self.open_files.backing,
            )
            self._trapper.start(self.loop)
        return self._trapper.attach(thread.pid, *instead)

    def device_memory(self, inode: int, offset: int, length: int) -> DeviceMemory:
        return DeviceMemory(self.open_files, inode, offset, length)

    def close(self) -> None:
        if self._trapper is not None:
            self._trapper.close()
        if self._poller is not None:
            self._poller.close()

    def _dispatch(self, access: Access) -> None:
        self.guarded(self._access, access)
        if current().task_works:
            self.guarded(run_task_works)

    def _access(self, access: Access) -> None:
        file = self.open_files.by_inode.get(access.inode)
        core = None if file is None else _pci_core(file)
        result: int | None = None
        try:
            if core is not None:
                result = vfio_pci_mmap_access(core, untag(access.offset), access.size, access.value)
        except Errno:
            pass  # the client gets a SIGBUS
        finally:
            access.answer(result)


class DeviceMemory:
    """A mapped region as the target of another device's DMA; ``PinnedPages``."""

    def __init__(self, open_files: OpenFiles, inode: int, offset: int, length: int) -> None:
        self.open_files = open_files
        self.inode = inode
        self.offset = untag(offset)
        self.length = length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        for at, size in _accesses(self.offset + offset, len(buffer)):
            value = self._access(at, size, None)
            start = at - self.offset - offset
            buffer[start : start + size] = value.to_bytes(size, "little")

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        for at, size in _accesses(self.offset + offset, len(data)):
            start = at - self.offset - offset
            self._access(at, size, int.from_bytes(data[start : start + size], "little"))

    def phys(self, offset: int) -> int:
        file = self.open_files.by_inode.get(self.inode)
        core = None if file is None else _pci_core(file)
        if core is None:
            return (1 << 64) - 1
        index, at = vfio_pci_region_at(core, self.offset + offset)
        return core.pdev.bars[index].addr + at

    def contiguous(self, offset: int) -> int:
        return self.length - offset

    def unpin(self) -> None:
        """Nothing is held: a device that is gone reads as ones, as on a bus."""

    def _access(self, at: int, size: int, value: int | None) -> int:
        file = self.open_files.by_inode.get(self.inode)
        core = None if file is None else _pci_core(file)
        try:
            if core is not None:
                return vfio_pci_mmap_access(core, at, size, value)
        except Errno:
            pass
        return (1 << 8 * size) - 1


def _accesses(at: int, n: int) -> Iterator[tuple[int, int]]:
    """Naturally aligned pieces of at most eight bytes."""
    end = at + n
    while at < end:
        size = next(each for each in (8, 4, 2, 1) if at % each == 0 and at + each <= end)
        yield at, size
        at += size


def _pci_core(file: File) -> VfioPciCoreDevice | None:
    df = file.private_data
    core = df.device.drvdata if isinstance(df, VfioDeviceFile) else None
    return core if isinstance(core, VfioPciCoreDevice) else None


@dataclass(frozen=True)
class _Block:
    """Memory of a device, *size* bytes at *offset* of its file; ``owner.memory`` is what the model uses."""

    owner: Any
    offset: int
    size: int


def _native_memory(file: File) -> list[_Block]:
    df = file.private_data
    state = df.device.drvdata if isinstance(df, VfioDeviceFile) else None
    if isinstance(state, MdpyState):
        return [_Block(state, MEMORY_BAR_OFFSET, state.memsize)]
    blocks: list[_Block] = []
    offset = 0
    for bar in state.pdev.bars if isinstance(state, VfioPciCoreDevice) else ():
        if bar.ram:
            blocks.append(_Block(bar, offset, bar.size))
            offset += _page_align(bar.size)
    return blocks


def _page_align(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE
