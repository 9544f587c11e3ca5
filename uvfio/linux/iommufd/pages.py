# SPDX-License-Identifier: GPL-2.0-only
"""
The memory behind areas: pinned, accounted and put into domains.

Mirrors ``drivers/iommu/iommufd/pages.c``. A page is pinned while an area that shows it
is in a domain, or an access has it pinned, once however many these are. All differences
from Linux:

* what is pinned is kept in runs of pages (``pinning.py``), not page by page;
* "per user" accounting counts for the whole machine: it serves one user;
* CAP_IPC_LOCK is looked at when memory is pinned first, not when it is mapped;
* a kernel thread reads and writes what is pinned, not what its owner has there now;
* the memory of a dma-buf is what its exporter gave (``kernel/dma_buf.py``).
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, EOPNOTSUPP

from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.iommufd import pinning
from uvfio.linux.iommufd.pinning import page_pins as page_pins
from uvfio.linux.iommufd.pinning import user_struct as user_struct
from uvfio.linux.iommufd.private import (
    PAGE_MASK,
    PAGE_SIZE,
    IoPagetable,
    IoptArea,
    IoptPages,
)
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.dma_buf import DmaBuf
from uvfio.linux.kernel.fs import fput, get_file
from uvfio.linux.kernel.process import MemoryFile, PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import current

NO_LIMIT = 1 << 64


def iopt_alloc_user_pages(uptr: int, writable: bool, account_mode: int) -> IoptPages:
    return kzalloc(IoptPages, current().process, uptr, writable, account_mode)


def iopt_alloc_file_pages(file: MemoryFile, start: int, writable: bool, account_mode: int) -> IoptPages:
    """Takes over *file*; whether it is of a kind that has memory shows when that is pinned."""
    pages = kzalloc(IoptPages, current().process, start, writable, account_mode)
    pages.file = file
    return pages


def iopt_alloc_dmabuf_pages(dmabuf: DmaBuf, start: int, writable: bool, account_mode: int) -> IoptPages:
    """Errno EOPNOTSUPP when it is not one range, ENODEV while it is revoked."""
    pages = kzalloc(IoptPages, current().process, start, writable, account_mode)
    try:
        with dmabuf.resv:
            if dmabuf.memory is None:
                raise Errno(EOPNOTSUPP)
            if dmabuf.revoked:
                raise Errno(ENODEV)
            pages.dmabuf = dmabuf
            pages.dmabuf_areas = {}
            pages.invalidate = lambda: _iopt_revoke_notify(pages)
            dmabuf.importers.append(pages.invalidate)
            get_file(dmabuf.file)
    except Errno:
        kfree(pages)
        raise
    return pages


def iopt_get_pages(pages: IoptPages) -> IoptPages:
    pages.refcount.inc()
    return pages


def iopt_put_pages(pages: IoptPages) -> None:
    if pages.refcount.dec_and_test():
        _iopt_release_pages(pages)


def _iopt_release_pages(pages: IoptPages) -> None:
    if pages.dmabuf is not None:
        with pages.dmabuf.resv:
            pages.dmabuf.importers.remove(pages.invalidate)
        fput(pages.dmabuf.file)
    if pages.file is not None:
        pages.file.put()
    kfree(pages)


# Domains


def iopt_area_fill_domains(iopt: IoPagetable, area: IoptArea, pages: IoptPages) -> None:
    """
    Pin and map the area into all domains, or none. Caller holds ``domains_rwsem``.
    Errno EFAULT when the memory cannot be had, ENOMEM above the limit.
    """
    if not iopt.domains:
        return
    with pages.mutex:
        _fill(iopt, area, pages, iopt.domains)


def iopt_area_fill_domain(iopt: IoPagetable, area: IoptArea, pages: IoptPages, domain: IommuDomain) -> None:
    """The same for a domain that joins others, or is the first."""
    with pages.mutex:
        if area.filled:
            first, last = _span(area)
            _map(iopt, area, pages, pinning.pinned_memory(pages, first, last), [domain])
            return
        _fill(iopt, area, pages, [domain])


def _fill(iopt: IoPagetable, area: IoptArea, pages: IoptPages, domains: list[IommuDomain]) -> None:
    first, last = _span(area)
    memory = pinning.pin(pages, first, last)
    try:
        _map(iopt, area, pages, memory, domains)
    except Errno:
        pinning.unpin(pages, first, last)
        raise
    area.filled = True


def iopt_area_unfill_domains(area: IoptArea, pages: IoptPages, domains: list[IommuDomain]) -> None:
    if not domains:
        return
    with pages.mutex:
        if not area.filled:
            return
        _unmap(area, pages, domains)
        area.filled = False
        pinning.unpin(pages, *_span(area))


def iopt_area_unfill_domain(area: IoptArea, pages: IoptPages, iopt: IoPagetable, domain: IommuDomain) -> None:
    """*domain* leaves; the pins go with the last one."""
    lockdep_assert_held(iopt.domains_rwsem)
    with pages.mutex:
        if not area.filled:
            return
        _unmap(area, pages, [domain])
        if iopt.domains == [domain]:
            area.filled = False
            pinning.unpin(pages, *_span(area))


def iopt_area_split_fill(area: IoptArea, pages: IoptPages, parts: tuple[IoptArea, IoptArea]) -> None:
    """*parts* take the place of *area*; what devices reach does not change."""
    with pages.mutex:
        if area.filled:
            for part in parts:
                pinning.pin(pages, *_span(part))
                part.filled = True
            pinning.unpin(pages, *_span(area))


def _map(
    iopt: IoPagetable, area: IoptArea, pages: IoptPages, memory: tuple[PinnedPages, int], domains: list[IommuDomain]
) -> None:
    length = area.last - area.start + 1
    max_leaf = PAGE_SIZE if iopt.disable_large_pages else NO_LIMIT
    dmabuf: DmaBuf | None = pages.dmabuf
    if dmabuf is not None:
        with dmabuf.resv:
            if not dmabuf.revoked and dmabuf.memory is not None:  # else the area stays, and shows nothing
                pages.dmabuf_areas.setdefault(area, []).extend(domains)
                for domain in domains:
                    offset = pages.uptr + area.byte_offset
                    domain.map(area.start, dmabuf.memory, offset, length, area.iommu_prot, max_leaf)
        return
    pinned, offset = memory
    offset += area.byte_offset & PAGE_MASK
    done: list[IommuDomain] = []
    try:
        for domain in domains:
            domain.map(area.start, pinned, offset, length, area.iommu_prot, max_leaf)
            done.append(domain)
    except Errno:
        for domain in done:
            domain.unmap(area.start, length)
        raise


def _unmap(area: IoptArea, pages: IoptPages, domains: list[IommuDomain]) -> None:
    length = area.last - area.start + 1
    dmabuf: DmaBuf | None = pages.dmabuf
    if dmabuf is None:
        for domain in domains:
            domain.unmap(area.start, length)
        return
    with dmabuf.resv:
        mapped = pages.dmabuf_areas.get(area, [])
        for domain in domains:
            if domain in mapped:
                domain.unmap(area.start, length)
                mapped.remove(domain)
        if not mapped:
            pages.dmabuf_areas.pop(area, None)


def _iopt_revoke_notify(pages: IoptPages) -> None:
    """The exporter takes the memory back, holding ``resv``."""
    for area, domains in pages.dmabuf_areas.items():
        for domain in domains:
            domain.unmap(area.start, area.last - area.start + 1)
    pages.dmabuf_areas.clear()


# Accesses


def iopt_area_add_access(area: IoptArea, pages: IoptPages, first: int, last: int) -> tuple[PinnedPages, int]:
    """
    One access more has the pages *first* to *last* pinned; answers memory, and where in
    it they begin. Errno EINVAL dma-buf, EFAULT, ENOMEM.
    """
    with pages.mutex:
        if pages.dmabuf is not None:
            raise Errno(EINVAL)
        memory = pinning.pin(pages, first, last)
        area.num_accesses += 1
    return memory


def iopt_area_remove_access(area: IoptArea, pages: IoptPages, first: int, last: int) -> None:
    with pages.mutex:
        area.num_accesses -= 1
        pinning.unpin(pages, first, last)


def iopt_pages_rw_access(
    pages: IoptPages, offset: int, length: int, write: bytes | None, change_mm: bool = False
) -> bytes:
    """
    Read, or store *write*, at *offset* in the pages. A process that asks for its own
    memory gets what is there now, pinned or not, unless *change_mm*. Errno EINVAL dma-buf, EFAULT.
    """
    if pages.dmabuf is not None:
        raise Errno(EINVAL)
    process = current().process
    if pages.file is None and process is not None:
        if process.mm is pages.mm and not change_mm:
            return _rw_user(pages, offset, length, write)
        if offset // PAGE_SIZE == (offset + length - 1) // PAGE_SIZE:
            return _rw_page(pages, offset, length, write)
    return _rw_slow(pages, offset, length, write)


def _rw_user(pages: IoptPages, offset: int, length: int, write: bytes | None) -> bytes:
    if write is None:
        data: bytes = pages.mm.read(pages.uptr + offset, length)
        return data
    pages.mm.write(pages.uptr + offset, write)
    return b""


def _rw_page(pages: IoptPages, offset: int, length: int, write: bytes | None) -> bytes:
    """``iopt_pages_rw_page()``: pin the page that is there now, for as long as it takes."""
    try:
        page: PinnedPages = pages.mm.pin(pages.uptr + (offset & ~PAGE_MASK), PAGE_SIZE, write is not None)
    except Errno:
        if pages.mm.alive:
            raise
        return _rw_slow(pages, offset, length, write)  # it may be pinned still
    try:
        return _rw(page, offset & PAGE_MASK, length, write)
    finally:
        page.unpin()


def _rw_slow(pages: IoptPages, offset: int, length: int, write: bytes | None) -> bytes:
    """What is not pinned is meanwhile, without being accounted."""
    with pages.mutex:
        runs, new = pinning.gather(pages, offset // PAGE_SIZE, (offset + length - 1) // PAGE_SIZE)
        memory, at = pinning.joined(runs, offset // PAGE_SIZE)
        try:
            return _rw(memory, at + (offset & PAGE_MASK), length, write)
        finally:
            for run in new:
                run.memory.memory.unpin()


def _rw(memory: PinnedPages, at: int, length: int, write: bytes | None) -> bytes:
    if write is not None:
        memory.write_from(at, write)
        return b""
    data = bytearray(length)
    memory.read_into(at, memoryview(data))
    return bytes(data)


def _span(area: IoptArea) -> tuple[int, int]:
    """The first and the last page of its memory that *area* shows."""
    first = area.byte_offset
    return first // PAGE_SIZE, (first + area.last - area.start) // PAGE_SIZE
