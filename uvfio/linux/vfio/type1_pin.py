# SPDX-License-Identifier: GPL-2.0-only
"""
What drivers of emulated devices pin and access through a container with type1.

Mirrors ``vfio_iommu_type1_pin_pages()`` and its like in ``drivers/vfio/vfio_iommu_type1.c``.
Pages are pinned when a driver asks, also where a real domain has the whole mapping
pinned already; they are counted as locked only where it has not.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, EPERM
from typing import Any

from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.vfio import type1_dma
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.uapi.vfio import VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE


def vfio_iommu_type1_register_device(iommu: type1_dma.VfioIommu, device: VfioDevice) -> None:
    # Written under both locks, so that either is enough to read.
    with iommu.lock, iommu.device_list_lock:
        iommu.device_list.append(device)


def vfio_iommu_type1_unregister_device(iommu: type1_dma.VfioIommu, device: VfioDevice) -> None:
    with iommu.lock, iommu.device_list_lock:
        iommu.device_list.remove(device)


def vfio_iommu_type1_pin_pages(iommu: type1_dma.VfioIommu, iova: int, npage: int, prot: int) -> list[Any]:
    """The pages of the range. Errno EBUSY, EINVAL not mapped, EPERM, EFAULT, ENOMEM."""
    pages: list[Any] = []
    with iommu.lock:
        if iommu.vaddr_invalid_count:
            raise Errno(EBUSY)
        if not iommu.device_list:
            raise Errno(EINVAL)
        try:
            for n in range(npage):
                pages.append(_pin_page(iommu, iova + n * type1_dma.PAGE_SIZE, prot))
        except Errno:
            for n in range(len(pages)):
                _unpin_page(iommu, iova + n * type1_dma.PAGE_SIZE)
            raise
    return pages


def _pin_page(iommu: type1_dma.VfioIommu, iova: int, prot: int) -> Any:
    lockdep_assert_held(iommu.lock)
    dma = iommu.dma_list.iter_first(iova, iova + type1_dma.PAGE_SIZE - 1)
    if dma is None:
        raise Errno(EINVAL)
    if dma.prot & prot != prot:
        raise Errno(EPERM)
    vpfn = dma.pfn_list.get(iova)
    if vpfn is None:
        npages = 0 if iommu.domain_list else 1
        type1_dma.vfio_lock_acct(dma.mm, npages)
        try:
            writable = bool(dma.prot & VFIO_DMA_MAP_FLAG_WRITE)
            page = dma.mm.pin(dma.vaddr + iova - dma.start, type1_dma.PAGE_SIZE, writable)
        except Errno:
            dma.mm.locked_vm -= npages
            raise
        vpfn = dma.pfn_list[iova] = type1_dma.VfioPfn(page, npages)
    vpfn.ref_count += 1
    dma.set_dirty(iova, iova)
    return vpfn.page


def vfio_iommu_type1_unpin_pages(iommu: type1_dma.VfioIommu, iova: int, npage: int) -> None:
    with iommu.lock:
        for n in range(npage):
            _unpin_page(iommu, iova + n * type1_dma.PAGE_SIZE)


def _unpin_page(iommu: type1_dma.VfioIommu, iova: int) -> None:
    lockdep_assert_held(iommu.lock)
    dma = iommu.dma_list.iter_first(iova, iova + type1_dma.PAGE_SIZE - 1)
    if dma is None or iova not in dma.pfn_list:
        return
    vpfn = dma.pfn_list[iova]
    vpfn.ref_count -= 1
    if not vpfn.ref_count:
        del dma.pfn_list[iova]
        vpfn.page.unpin()
        dma.mm.locked_vm -= vpfn.locked


def vfio_iommu_type1_dma_rw(iommu: type1_dma.VfioIommu, iova: int, length: int, write: bytes | None) -> bytes:
    """Read *length* bytes of the user's, or store *write*. Errno EBUSY, EINVAL not mapped, EPERM, EFAULT."""
    wanted = VFIO_DMA_MAP_FLAG_READ if write is None else VFIO_DMA_MAP_FLAG_WRITE
    data = b""
    at, last = iova, iova + length - 1
    with iommu.lock:
        if iommu.vaddr_invalid_count:
            raise Errno(EBUSY)
        while at <= last:
            dma = iommu.dma_list.iter_first(at, at)
            if dma is None:
                raise Errno(EINVAL)
            if not dma.prot & wanted:
                raise Errno(EPERM)
            end = min(dma.last, last)
            if write is None:
                data += dma.mm.read(dma.vaddr + at - dma.start, end - at + 1)
            else:
                dma.mm.write(dma.vaddr + at - dma.start, write[at - iova : end - iova + 1])
                dma.set_dirty(at, end)
            at = end + 1
    return data


def vfio_notify_dma_unmap(iommu: type1_dma.VfioIommu, dma: type1_dma.VfioDma) -> None:
    """
    Have the drivers unpin what they have of *dma*. They come back for ``iommu.lock``,
    which is dropped meanwhile: the caller must look again for everything.
    """
    lockdep_assert_held(iommu.lock)
    start, size = dma.start, dma.size
    iommu.device_list_lock.lock()
    iommu.lock.unlock()
    for device in iommu.device_list:
        device.ops.dma_unmap(device, start, size)
    iommu.device_list_lock.unlock()
    iommu.lock.lock()


def vfio_iommu_unmap_unpin_reaccount(iommu: type1_dma.VfioIommu) -> None:
    """The last domain is gone: only what drivers have pinned stays pinned, and is counted now."""
    for dma in iommu.dma_list.overlapping(0, type1_dma.U64_MAX):
        type1_dma.vfio_unpin_dma(dma)
        for vpfn in dma.pfn_list.values():
            dma.mm.locked_vm += 1 - vpfn.locked
            vpfn.locked = 1
