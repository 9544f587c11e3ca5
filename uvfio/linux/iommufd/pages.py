# SPDX-License-Identifier: GPL-2.0-only
"""
The memory behind areas: pinned, accounted and put into domains.

Mirrors ``drivers/iommu/iommufd/pages.c``. All differences from Linux:

* pages are pinned as a whole when the first area that shows part of them gets into a
  domain, and unpinned when the last one leaves; Linux does it page by page;
* "per user" accounting counts for the whole machine: it serves one user;
* the memory of a dma-buf is what its exporter gave (``kernel/dma_buf.py``).
"""

from __future__ import annotations

from errno import ENODEV, ENOMEM, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.iommufd.private import (
    IOPT_PAGES_ACCOUNT_MM,
    PAGE_SIZE,
    IoPagetable,
    IoptArea,
    IoptPages,
)
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.dma_buf import DmaBuf
from uvfio.linux.kernel.fs import fput, get_file
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import current, per_machine


class UserStruct:
    """``struct user_struct`` of the one user there is."""

    def __init__(self) -> None:
        self.locked_vm = 0


user_struct = per_machine(UserStruct)


def iopt_alloc_user_pages(uptr: int, length: int, writable: bool, account_mode: int) -> IoptPages:
    return kzalloc(IoptPages, current().process.mm, uptr, length, writable, account_mode)


def iopt_alloc_dmabuf_pages(dmabuf: DmaBuf, start: int, length: int, account_mode: int) -> IoptPages:
    """Errno EOPNOTSUPP when it is not one range, ENODEV while it is revoked."""
    pages = kzalloc(IoptPages, None, start, length, True, account_mode)
    try:
        with dmabuf.resv:
            if dmabuf.memory is None:
                raise Errno(EOPNOTSUPP)
            if dmabuf.revoked:
                raise Errno(ENODEV)
            pages.dmabuf = dmabuf
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
    kfree(pages)


def iopt_area_fill_domains(area: IoptArea, pages: IoptPages, domains: list[IommuDomain]) -> None:
    """
    Pin and map the area into all *domains*, or none. Caller holds ``domains_rwsem``.
    Errno EFAULT when the memory cannot be had, ENOMEM above the limit.
    """
    if not domains:
        return
    with pages.mutex:
        memory = _pin(pages)
        try:
            _map(area, pages, memory, domains)
        except Errno:
            _unpin(pages)
            raise
        area.filled = True


def iopt_area_fill_domain(area: IoptArea, pages: IoptPages, domain: IommuDomain) -> None:
    """The same for a domain that joins others, or is the first."""
    with pages.mutex:
        if area.filled:
            memory = pages.pinned if pages.dmabuf is None else pages.dmabuf.memory
            _map(area, pages, memory, [domain])
            return
        memory = _pin(pages)
        try:
            _map(area, pages, memory, [domain])
        except Errno:
            _unpin(pages)
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
        _unpin(pages)


def iopt_area_unfill_domain(area: IoptArea, pages: IoptPages, iopt: IoPagetable, domain: IommuDomain) -> None:
    """*domain* leaves; the pins go with the last one."""
    lockdep_assert_held(iopt.domains_rwsem)
    with pages.mutex:
        if not area.filled:
            return
        _unmap(area, pages, [domain])
        if iopt.domains == [domain]:
            area.filled = False
            _unpin(pages)


def iopt_area_add_access(area: IoptArea, pages: IoptPages) -> PinnedPages:
    """One access more has the area's memory pinned; answers that. Errno EFAULT, ENOMEM."""
    with pages.mutex:
        memory = _pin(pages)
        area.num_accesses += 1
    return memory


def iopt_area_remove_access(area: IoptArea, pages: IoptPages) -> None:
    with pages.mutex:
        area.num_accesses -= 1
        _unpin(pages)


def iopt_pages_rw_access(pages: IoptPages, offset: int, length: int, write: bytes | None) -> bytes:
    """Read, or store *write*, at *offset* in the pages; they are pinned only meanwhile."""
    with pages.mutex:
        memory = _pin(pages)
        try:
            if write is not None:
                memory.write_from(offset, write)
                return b""
            data = bytearray(length)
            memory.read_into(offset, memoryview(data))
            return bytes(data)
        finally:
            _unpin(pages)


def _map(area: IoptArea, pages: IoptPages, memory: Any, domains: list[IommuDomain]) -> None:
    length = area.last - area.start + 1
    dmabuf: DmaBuf | None = pages.dmabuf
    if dmabuf is not None:
        with dmabuf.resv:
            if not dmabuf.revoked:  # else the area stays, and shows nothing
                pages.dmabuf_areas.setdefault(area, []).extend(domains)
                for domain in domains:
                    domain.map(area.start, memory, pages.uptr + area.byte_offset, length, area.iommu_prot)
        return
    done: list[IommuDomain] = []
    try:
        for domain in domains:
            domain.map(area.start, memory, area.byte_offset, length, area.iommu_prot)
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


def _pin(pages: IoptPages) -> PinnedPages:
    """One more area needs the memory; the first has it pinned and accounted."""
    if pages.dmabuf is not None:
        pages.fills += 1
        memory: PinnedPages = pages.dmabuf.memory
        return memory
    pinned = pages.pinned
    if pinned is None:
        pinned = pages.mm.pin(pages.uptr, pages.npages * PAGE_SIZE, pages.writable)
        try:
            _account(pages)
        except Errno:
            pinned.unpin()
            raise
        pages.pinned = pinned
    pages.fills += 1
    return pinned


def _unpin(pages: IoptPages) -> None:
    pages.fills -= 1
    if pages.fills == 0 and pages.pinned is not None:
        pages.pinned.unpin()
        pages.pinned = None
        _locked_vm(pages).locked_vm -= pages.npages


def _locked_vm(pages: IoptPages) -> Any:
    """Where the pages are counted, as ``locked_vm``."""
    return pages.mm if pages.account_mode == IOPT_PAGES_ACCOUNT_MM else user_struct()


def _account(pages: IoptPages) -> None:
    """``iopt_pages_update_pinned()``: count the pages as locked. Errno ENOMEM."""
    account = _locked_vm(pages)
    limit = pages.mm.memlock_limit()
    if limit is not None and account.locked_vm + pages.npages > limit:
        raise Errno(ENOMEM, "RLIMIT_MEMLOCK")
    account.locked_vm += pages.npages


def iopt_area_split_fill(area: IoptArea, pages: IoptPages, parts: tuple[IoptArea, IoptArea]) -> None:
    """*parts* take the place of *area*; what devices reach does not change."""
    with pages.mutex:
        if area.filled:
            pages.fills += 1
            for part in parts:
                part.filled = True
