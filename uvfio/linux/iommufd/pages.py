# SPDX-License-Identifier: GPL-2.0-only
"""
The memory behind areas: pinned, accounted and put into domains.

Mirrors ``drivers/iommu/iommufd/pages.c``. A page is pinned while an area that shows it
is in a domain, or an access has it pinned, once however many these are. All differences
from Linux:

* what is pinned is kept in runs of pages (:class:`PinRun`), not page by page;
* "per user" accounting counts for the whole machine: it serves one user;
* CAP_IPC_LOCK is looked at when memory is pinned first, not when it is mapped;
* the memory of a dma-buf is what its exporter gave (``kernel/dma_buf.py``).
"""

from __future__ import annotations

from bisect import bisect_right
from errno import EINVAL, ENODEV, ENOMEM, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.iommufd.private import (
    IOPT_PAGES_ACCOUNT_MM,
    IOPT_PAGES_ACCOUNT_NONE,
    PAGE_MASK,
    PAGE_SIZE,
    IoPagetable,
    IoptArea,
    IoptPages,
)
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.dma_buf import DmaBuf
from uvfio.linux.kernel.fs import fput, get_file
from uvfio.linux.kernel.process import CAP_IPC_LOCK, MemoryFile, PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import current, per_machine

NO_LIMIT = 1 << 64


class UserStruct:
    """``struct user_struct`` of the one user there is."""

    def __init__(self) -> None:
        self.locked_vm = 0


class PinnedRegistry:
    """Which ``struct iopt_pages`` have pages pinned; on Linux the pages count that themselves."""

    def __init__(self) -> None:
        self.pages: set[IoptPages] = set()


user_struct = per_machine(UserStruct)
pinned_registry = per_machine(PinnedRegistry)


class PinRun:
    """
    Pages *first* to *last* of an iopt_pages, which are pinned: they are in *memory* from
    byte *offset* on. Areas and accesses use them *users* times.
    """

    __slots__ = ("first", "last", "memory", "offset", "users")

    def __init__(self, first: int, last: int, memory: SharedPin, offset: int, users: int) -> None:
        self.first = first
        self.last = last
        self.memory = memory
        self.offset = offset
        self.users = users


class SharedPin:
    """Pinned memory that several runs may be parts of; unpinned with the last."""

    __slots__ = ("memory", "runs")

    def __init__(self, memory: PinnedPages) -> None:
        self.memory = memory
        self.runs = 1


class PinnedRuns:
    """Pages of several runs, one after the other: :class:`PinnedPages`, unpinned run by run."""

    def __init__(self, runs: list[PinRun]) -> None:
        base = runs[0].first
        self.starts = [(run.first - base) * PAGE_SIZE for run in runs]
        self.parts = [(run.memory.memory, run.offset) for run in runs]
        self.length = (runs[-1].last + 1 - base) * PAGE_SIZE

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            memory, at, n = self._part(offset + done)
            memory.read_into(at, buffer[done : done + n])
            done += n

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        view, done = memoryview(data), 0
        while done < len(view):
            memory, at, n = self._part(offset + done)
            memory.write_from(at, view[done : done + n])
            done += n

    def phys(self, offset: int) -> int:
        memory, at, _n = self._part(offset)
        return memory.phys(at)

    def contiguous(self, offset: int) -> int:
        memory, at, n = self._part(offset)
        found = min(memory.contiguous(at), n)
        while found == n and offset + n < self.length:
            # A huge page of which parts have been pinned at different times is one all the same.
            if self.phys(offset + n) != memory.phys(at) + n:
                break
            following, where, more = self._part(offset + n)
            found = n + min(following.contiguous(where), more)
            n += more
        return found

    def unpin(self) -> None:
        """See :func:`_unpin`."""

    def _part(self, offset: int) -> tuple[PinnedPages, int, int]:
        """Where *offset* is, and how many bytes of that part there are from there on."""
        index = bisect_right(self.starts, offset) - 1
        memory, base = self.parts[index]
        end = self.starts[index + 1] if index + 1 < len(self.starts) else self.length
        return memory, base + offset - self.starts[index], end - offset


def page_pins(phys: int) -> int:
    """How many iopt_pages have the page at the physical address *phys* pinned."""
    page = phys & ~PAGE_MASK
    return sum(_has_page(pages, page) for pages in pinned_registry().pages)


def _has_page(pages: IoptPages, page: int) -> bool:
    return any(
        run.memory.memory.phys(run.offset + at) & ~PAGE_MASK == page
        for run in pages.runs
        for at in range(0, (run.last + 1 - run.first) * PAGE_SIZE, PAGE_SIZE)
    )


def iopt_alloc_user_pages(uptr: int, writable: bool, account_mode: int) -> IoptPages:
    return kzalloc(IoptPages, current().process, uptr, writable, account_mode)


def iopt_alloc_file_pages(file: MemoryFile, start: int, writable: bool, account_mode: int) -> IoptPages:
    """Takes over *file*; whether it is of a kind that has memory shows when that is pinned."""
    pages = kzalloc(IoptPages, current().process, start, writable, account_mode)
    pages.file = file
    return pages


def iopt_alloc_dmabuf_pages(dmabuf: DmaBuf, start: int, account_mode: int) -> IoptPages:
    """Errno EOPNOTSUPP when it is not one range, ENODEV while it is revoked."""
    pages = kzalloc(IoptPages, current().process, start, True, account_mode)
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
            _map(iopt, area, pages, _memory(pages, first, last), [domain])
            return
        _fill(iopt, area, pages, [domain])


def _fill(iopt: IoPagetable, area: IoptArea, pages: IoptPages, domains: list[IommuDomain]) -> None:
    first, last = _span(area)
    memory = _pin(pages, first, last)
    try:
        _map(iopt, area, pages, memory, domains)
    except Errno:
        _unpin(pages, first, last)
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
        _unpin(pages, *_span(area))


def iopt_area_unfill_domain(area: IoptArea, pages: IoptPages, iopt: IoPagetable, domain: IommuDomain) -> None:
    """*domain* leaves; the pins go with the last one."""
    lockdep_assert_held(iopt.domains_rwsem)
    with pages.mutex:
        if not area.filled:
            return
        _unmap(area, pages, [domain])
        if iopt.domains == [domain]:
            area.filled = False
            _unpin(pages, *_span(area))


def iopt_area_split_fill(area: IoptArea, pages: IoptPages, parts: tuple[IoptArea, IoptArea]) -> None:
    """*parts* take the place of *area*; what devices reach does not change."""
    with pages.mutex:
        if area.filled:
            for part in parts:
                _pin(pages, *_span(part))
                part.filled = True
            _unpin(pages, *_span(area))


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
        memory = _pin(pages, first, last)
        area.num_accesses += 1
    return memory


def iopt_area_remove_access(area: IoptArea, pages: IoptPages, first: int, last: int) -> None:
    with pages.mutex:
        area.num_accesses -= 1
        _unpin(pages, first, last)


def iopt_pages_rw_access(pages: IoptPages, offset: int, length: int, write: bytes | None) -> bytes:
    """
    Read, or store *write*, at *offset* in the pages. What is not pinned is meanwhile,
    without being accounted. Errno EINVAL dma-buf, EFAULT.
    """
    if pages.dmabuf is not None:
        raise Errno(EINVAL)
    with pages.mutex:
        runs, new = _gather(pages, offset // PAGE_SIZE, (offset + length - 1) // PAGE_SIZE)
        memory, at = _joined(runs, offset // PAGE_SIZE)
        at += offset & PAGE_MASK
        try:
            if write is not None:
                memory.write_from(at, write)
                return b""
            data = bytearray(length)
            memory.read_into(at, memoryview(data))
            return bytes(data)
        finally:
            for run in new:
                run.memory.memory.unpin()


# Pinning; all under pages.mutex


def _span(area: IoptArea) -> tuple[int, int]:
    """The first and the last page of its memory that *area* shows."""
    first = area.byte_offset
    return first // PAGE_SIZE, (first + area.last - area.start) // PAGE_SIZE


def _pin(pages: IoptPages, first: int, last: int) -> tuple[PinnedPages, int]:
    """
    One user more for the pages *first* to *last*; answers the memory, and the byte in it
    where they begin. Errno: nothing has changed then.
    """
    if pages.dmabuf is not None:
        return pages.dmabuf.memory, 0
    if not pages.runs:  # nearly always: one area, one user
        memory = _pin_source(pages, first, last)
        try:
            _update_pinned(pages, last + 1 - first)
        except Errno:
            memory.unpin()
            raise
        pages.runs = [PinRun(first, last, SharedPin(memory), 0, 1)]
        pinned_registry().pages.add(pages)
        return memory, 0
    _cut(pages, first)
    _cut(pages, last + 1)
    runs, new = _gather(pages, first, last)
    try:
        _update_pinned(pages, sum(run.last + 1 - run.first for run in new))
    except Errno:
        for run in new:
            run.memory.memory.unpin()
        raise
    for run in runs:
        run.users += 1
    if new:
        pages.runs = sorted([*pages.runs, *new], key=_run_first)
    return _joined(runs, first)


def _unpin(pages: IoptPages, first: int, last: int) -> None:
    """One user less."""
    if pages.dmabuf is not None:
        return
    runs = pages.runs
    if len(runs) != 1 or runs[0].first != first or runs[0].last != last:
        _cut(pages, first)
        _cut(pages, last + 1)
        low = bisect_right(pages.runs, first - 1, key=_run_first)
        runs = pages.runs[low : bisect_right(pages.runs, last, key=_run_first)]
        WARN_ON(sum(run.last + 1 - run.first for run in runs) != last + 1 - first, "what is unpinned is not pinned")
    gone = 0
    for run in runs:
        run.users -= 1
        if not run.users:
            gone += run.last + 1 - run.first
            run.memory.runs -= 1
            if not run.memory.runs:
                run.memory.memory.unpin()
    if gone:
        pages.runs = [run for run in pages.runs if run.users]
        if not pages.runs:
            pinned_registry().pages.discard(pages)
        _update_pinned(pages, -gone)


def _run_first(run: PinRun) -> int:
    return run.first


def _pin_source(pages: IoptPages, first: int, last: int) -> PinnedPages:
    """Have the pages pinned by whoever owns the memory. Errno EFAULT, or EINVAL of a file."""
    at, length = pages.uptr + first * PAGE_SIZE, (last + 1 - first) * PAGE_SIZE
    if pages.file is not None:
        memory: PinnedPages = pages.file.pin(at, length)
    else:
        memory = pages.mm.pin(at, length, pages.writable)
    return memory


def _cut(pages: IoptPages, at: int) -> None:
    """Have a run end before the page *at*, if one goes across."""
    index = bisect_right(pages.runs, at - 1, key=_run_first) - 1
    if index < 0 or pages.runs[index].last < at:
        return
    run = pages.runs[index]
    tail = PinRun(at, run.last, run.memory, run.offset + (at - run.first) * PAGE_SIZE, run.users)
    run.memory.runs += 1
    run.last = at - 1
    pages.runs.insert(index + 1, tail)


def _gather(pages: IoptPages, first: int, last: int) -> tuple[list[PinRun], list[PinRun]]:
    """
    The runs that have the pages, ascending, and those among them that are new: pinned
    just now, without users and not in the list yet.
    """
    runs: list[PinRun] = []
    new: list[PinRun] = []
    index = max(bisect_right(pages.runs, first, key=_run_first) - 1, 0)
    at = first
    try:
        while at <= last:
            while index < len(pages.runs) and pages.runs[index].last < at:
                index += 1
            found = pages.runs[index] if index < len(pages.runs) else None
            if found is None or found.first > at:
                end = last if found is None else min(last, found.first - 1)
                found = PinRun(at, end, SharedPin(_pin_source(pages, at, end)), 0, 0)
                new.append(found)
            runs.append(found)
            at = found.last + 1
    except Errno:
        for run in new:
            run.memory.memory.unpin()
        raise
    return runs, new


def _memory(pages: IoptPages, first: int, last: int) -> tuple[PinnedPages, int]:
    """The memory of pages that are pinned, and the byte in it where they begin."""
    if pages.dmabuf is not None:
        return pages.dmabuf.memory, 0
    return _joined(_gather(pages, first, last)[0], first)


def _joined(runs: list[PinRun], first: int) -> tuple[PinnedPages, int]:
    """*runs* as one memory, and the byte in it where the page *first* begins."""
    skip = (first - runs[0].first) * PAGE_SIZE
    if len(runs) == 1:
        return runs[0].memory.memory, runs[0].offset + skip
    return PinnedRuns(runs), skip


# Accounting


def _update_pinned(pages: IoptPages, npages: int) -> None:
    """``iopt_pages_update_pinned()``: count *npages* more, or less. Errno ENOMEM above the limit."""
    if pages.account_mode != IOPT_PAGES_ACCOUNT_NONE:
        if not pages.npinned and pages.process.capable(CAP_IPC_LOCK):
            pages.account_mode = IOPT_PAGES_ACCOUNT_NONE
        else:
            _charge(pages.account_mode, pages.mm, npages)
    pages.npinned += npages
    pages.mm.pinned_vm += npages


def _charge(account_mode: int, mm: Any, npages: int) -> None:
    account = mm if account_mode == IOPT_PAGES_ACCOUNT_MM else user_struct()
    if npages > 0:
        limit = mm.memlock_limit()
        if limit is not None and account.locked_vm + npages > limit:
            raise Errno(ENOMEM, "RLIMIT_MEMLOCK")
    account.locked_vm += npages


def iopt_pages_charge_process(every: list[IoptPages], process: Any) -> None:
    """
    ``iommufd_ioas_change_process()``: all of *every*, which are files, count for
    *process* from now on. Errno ENOMEM above its limit: nothing has changed then.
    """
    mm = process.mm
    done: list[IoptPages] = []
    try:
        for pages in every:
            if pages.mm is not mm and pages.account_mode == IOPT_PAGES_ACCOUNT_MM:
                _charge(IOPT_PAGES_ACCOUNT_MM, mm, pages.npinned)
                done.append(pages)
    except Errno:
        for pages in done:
            mm.locked_vm -= pages.npinned
        raise
    for pages in done:
        pages.mm.locked_vm -= pages.npinned
    for pages in every:
        pages.mm.pinned_vm -= pages.npinned
        mm.pinned_vm += pages.npinned
        pages.mm, pages.process = mm, process
