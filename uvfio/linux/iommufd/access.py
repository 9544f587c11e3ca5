# SPDX-License-Identifier: GPL-2.0-only
"""
Accesses: how a driver reaches the memory of an IOAS by itself, without an IOMMU.

Mirrors the second half of ``drivers/iommu/iommufd/device.c``, and ``iopt_area_add_access()``
of ``io_pagetable.c``. Whoever unmaps asks every access first, without a lock, to unpin what
it has there. Difference from Linux: the pages answered are views of pinned memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EBUSY, EINVAL, ENOENT, EOVERFLOW, EPERM

from uvfio.linux.iommu.private import IOMMU_READ, IOMMU_WRITE
from uvfio.linux.iommufd import io_pagetable, ioas, objects
from uvfio.linux.iommufd import pages as iopt_pages
from uvfio.linux.iommufd.private import (
    PAGE_MASK,
    PAGE_SIZE,
    ULONG_MAX,
    IommufdAccess,
    IommufdCtx,
    IommufdIoas,
    IoPagetable,
    IoptArea,
    IoptPages,
)
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc


class PageView:
    """One page of pinned memory; ``PinnedPages``, except that it is unpinned by its IOVA."""

    length = PAGE_SIZE

    def __init__(self, memory: PinnedPages, offset: int) -> None:
        self.memory = memory
        self.offset = offset

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.memory.read_into(self.offset + offset, buffer)

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        self.memory.write_from(self.offset + offset, data)

    def phys(self, offset: int) -> int:
        return self.memory.phys(self.offset + offset)

    def contiguous(self, offset: int) -> int:
        return self.memory.contiguous(self.offset + offset)

    def unpin(self) -> None:
        """See :func:`iommufd_access_unpin_pages`."""


# Life


def iommufd_access_create(ictx: IommufdCtx, unmap: Callable[[int, int], None], needs_pin_pages: bool) -> IommufdAccess:
    """An access that is attached to nothing yet; *unmap(iova, length)* asks it to unpin."""
    access = kzalloc(IommufdAccess, ictx, unmap if needs_pin_pages else None)
    access.iova_alignment = PAGE_SIZE if needs_pin_pages else 1
    objects.iommufd_object_alloc(ictx, access)
    # The driver is a user, so that nobody else can destroy what only it may.
    access.users.inc()
    objects.iommufd_ctx_get(ictx)
    objects.iommufd_object_finalize(ictx, access)
    return access


def iommufd_access_create_internal(ictx: IommufdCtx) -> IommufdAccess:
    """
    iommufd's own access, for memory that stays mapped while it is pinned. It has no reference
    to the context, which would never end then.
    """
    access = kzalloc(IommufdAccess, ictx, None)
    access.internal = True
    access.iova_alignment = PAGE_SIZE
    objects.iommufd_object_alloc(ictx, access)
    access.users.inc()
    objects.iommufd_object_finalize(ictx, access)
    return access


def iommufd_access_destroy_internal(ictx: IommufdCtx, access: IommufdAccess) -> None:
    objects.iommufd_object_destroy_user(ictx, access)


def iommufd_access_attach_internal(access: IommufdAccess, ioas: IommufdIoas) -> None:
    """Errno EADDRINUSE: an area of *ioas* is finer than a page."""
    with access.ioas_lock:
        _change_ioas(access, ioas)


def iommufd_access_detach_internal(access: IommufdAccess) -> None:
    iommufd_access_detach(access)


def iommufd_access_destroy(access: IommufdAccess) -> None:
    """Waits for those who ask it to unpin."""
    objects.iommufd_object_destroy_user(access.ictx, access)


def iommufd_access_destroy_object(access: IommufdAccess) -> None:
    with access.ioas_lock:
        if access.ioas is not None:
            _change_ioas(access, None)
    if not access.internal:
        objects.iommufd_ctx_put(access.ictx)


def iommufd_access_attach(access: IommufdAccess, ioas_id: int) -> None:
    """Errno EINVAL attached already, ENOENT no IOAS, EADDRINUSE an area that is finer than a page."""
    with access.ioas_lock:
        if WARN_ON(access.ioas is not None or access.ioas_unpin is not None, "an access is attached twice"):
            raise Errno(EINVAL)
        _change_ioas_id(access, ioas_id)


def iommufd_access_replace(access: IommufdAccess, ioas_id: int) -> None:
    with access.ioas_lock:
        if access.ioas is None:
            raise Errno(ENOENT)
        _change_ioas_id(access, ioas_id)


def iommufd_access_detach(access: IommufdAccess) -> None:
    with access.ioas_lock:
        if not WARN_ON(access.ioas is None, "an access is detached that is not attached"):
            _change_ioas(access, None)


def _change_ioas_id(access: IommufdAccess, ioas_id: int) -> None:
    new = ioas.iommufd_get_ioas(access.ictx, ioas_id)
    try:
        _change_ioas(access, new)
    finally:
        objects.iommufd_put_object(access.ictx, new)


def _change_ioas(access: IommufdAccess, new: IommufdIoas | None) -> None:
    lockdep_assert_held(access.ioas_lock)
    cur = access.ioas
    # Somebody else is at it, and has dropped the lock to have the driver unpin.
    if cur is not access.ioas_unpin:
        raise Errno(EBUSY)
    if new is cur:
        return
    # That of the new IOAS takes its place.
    iopt_access_list_id = access.iopt_access_list_id
    # From here on nothing can be pinned.
    access.ioas = None
    if new is not None:
        try:
            io_pagetable.iopt_add_access(new.iopt, access)
        except Errno:
            access.ioas = cur
            raise
        new.users.inc()
    if cur is not None:
        if access.unmap is not None:
            # The driver unpins, for which it needs the lock.
            access.ioas_lock.unlock()
            access.unmap(0, ULONG_MAX)
            access.ioas_lock.lock()
        io_pagetable.iopt_remove_access(cur.iopt, access, iopt_access_list_id)
        cur.users.dec()
    access.ioas = new
    access.ioas_unpin = new


# Memory


def iommufd_access_notify_unmap(iopt: IoPagetable, iova: int, length: int) -> None:
    """Ask every access to unpin what it has in the range; no lock is held."""
    accesses = iopt.access_list
    accesses.xa_lock.lock()
    for _index, access in accesses.items():
        # Nobody unmaps what iommufd itself has pinned.
        if access.internal or not objects.iommufd_lock_obj(access):
            continue
        accesses.xa_lock.unlock()
        if access.unmap is not None:
            access.unmap(iova, length)
        objects.iommufd_put_object(access.ictx, access)
        accesses.xa_lock.lock()
    accesses.xa_lock.unlock()


def iommufd_access_pin_pages(access: IommufdAccess, iova: int, length: int, prot: int) -> list[PageView]:
    """The pages of the range, pinned. Errno ENOENT not attached or mapped, EINVAL, EPERM, EFAULT, ENOMEM."""
    if WARN_ON(access.unmap is None and not access.internal, "an access pins that would not hear of an unmap"):
        raise Errno(EINVAL)
    _last(iova, length)
    with access.ioas_lock:
        if access.ioas is None:
            raise Errno(ENOENT)
        return iopt_pin_range(access.ioas.iopt, iova, length, prot, access.internal)


def iommufd_access_unpin_pages(access: IommufdAccess, iova: int, length: int) -> None:
    """Undo one pin of exactly that range."""
    _last(iova, length)
    with access.ioas_lock:
        # While the IOAS changes, only this can still be done with the old one.
        if WARN_ON(access.ioas_unpin is None, "an access unpins that is not attached"):
            return
        assert access.ioas_unpin is not None
        iopt_unpin_range(access.ioas_unpin.iopt, iova, length, access.internal)


def iopt_pin_range(iopt: IoPagetable, iova: int, length: int, prot: int, lock_area: bool = False) -> list[PageView]:
    """
    For drivers, and, with *lock_area*, for objects of iommufd: nobody can unmap what
    these have pinned. Errno ENOENT, EINVAL not whole pages inside or dma-buf, EPERM, EFAULT, ENOMEM.
    """
    last = _last(iova, length)
    views: list[PageView] = []
    done: list[tuple[IoptArea, IoptPages, int, int]] = []
    with iopt.iova_rwsem.read():
        try:
            for area, pages, start, end in _contiguous(iopt, iova, last):
                _check_pin(area, start, end, last, prot)
                first, final = _pages_of(area, start, end)
                memory, offset = iopt_pages.iopt_area_add_access(area, pages, first, final)
                area.num_locks += lock_area
                done.append((area, pages, first, final))
                views += [PageView(memory, offset + n * PAGE_SIZE) for n in range(final + 1 - first)]
        except Errno:
            for area, pages, first, final in done:
                area.num_locks -= lock_area
                iopt_pages.iopt_area_remove_access(area, pages, first, final)
            raise
    return views


def iopt_unpin_range(iopt: IoPagetable, iova: int, length: int, unlock_area: bool = False) -> None:
    """Undo one :func:`iopt_pin_range` of exactly that range."""
    with iopt.iova_rwsem.read():
        for area, pages, start, end in _contiguous(iopt, iova, _last(iova, length)):
            area.num_locks -= unlock_area
            iopt_pages.iopt_area_remove_access(area, pages, *_pages_of(area, start, end))


def iommufd_access_rw(
    access: IommufdAccess, iova: int, length: int, write: bytes | None = None, slow: bool = False
) -> bytes:
    """Read *length* bytes, or store *write*; *slow* is for tests. Errno as a pin, EBUSY while it is unmapped."""
    last = _last(iova, length)
    done = b""
    with access.ioas_lock:
        if access.ioas is None:
            raise Errno(ENOENT)
        iopt = access.ioas.iopt
        with iopt.iova_rwsem.read():
            for area, pages, start, end in _contiguous(iopt, iova, last):
                if area.prevent_access:
                    raise Errno(EBUSY)
                _check_prot(area, IOMMU_WRITE if write is not None else 0)
                piece = None if write is None else write[start - iova : end - iova + 1]
                at = area.byte_offset + start - area.start
                done += iopt_pages.iopt_pages_rw_access(pages, at, end - start + 1, piece, slow)
    return done


def _last(iova: int, length: int) -> int:
    if not length:
        raise Errno(EINVAL)
    if iova + length - 1 > ULONG_MAX:
        raise Errno(EOVERFLOW)
    return iova + length - 1


def _contiguous(iopt: IoPagetable, iova: int, last: int) -> Iterator[tuple[IoptArea, IoptPages, int, int]]:
    """The areas of the range, with the part that is in it. Errno ENOENT at a hole."""
    at = iova
    for area in iopt.area_itree.overlapping(iova, last):
        if area.start > at or area.pages is None:
            break
        end = min(area.last, last)
        yield area, area.pages, at, end
        at = end + 1
    if at <= last:
        raise Errno(ENOENT)


def _pages_of(area: IoptArea, start: int, end: int) -> tuple[int, int]:
    """The first and the last page of its memory that *area* shows from *start* to *end*."""
    offset = area.byte_offset - area.start
    return (offset + start) // PAGE_SIZE, (offset + end) // PAGE_SIZE


def _check_pin(area: IoptArea, start: int, end: int, last: int, prot: int) -> None:
    """Inside of a range, what is pinned must be whole pages. Errno EINVAL, EPERM."""
    offset = area.byte_offset - area.start
    if area.prevent_access or (offset + start) & PAGE_MASK or (end < last and (offset + end + 1) & PAGE_MASK):
        raise Errno(EINVAL)
    _check_prot(area, prot)


def _check_prot(area: IoptArea, prot: int) -> None:
    if not area.iommu_prot & (IOMMU_WRITE if prot & IOMMU_WRITE else IOMMU_READ):
        raise Errno(EPERM)
