# SPDX-License-Identifier: GPL-2.0-only
"""
The selftest's accesses: a file each, through which the program has pages pinned, read and written.

Mirrors that part of ``drivers/iommu/iommufd/selftest.c``. Difference from Linux:
MOCK_ACCESS_RW_SLOW_PATH changes nothing, because there is one path.
"""

from __future__ import annotations

from errno import EBADE, EBADF, EBADFD, ENOENT, ENOMEM, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu.private import IOMMU_READ, IOMMU_WRITE
from uvfio.linux.iommufd import access as iommufd_access
from uvfio.linux.iommufd import ioas, objects, selftest
from uvfio.linux.iommufd.private import PAGE_MASK, PAGE_SIZE, ULONG_MAX, IommufdAccess, IommufdUcmd, IoPagetable
from uvfio.linux.kernel.fs import (
    O_CLOEXEC,
    File,
    FileOperations,
    anon_inode_getfile,
    fd_install,
    fget,
    fput,
    fput_sync,
    get_unused_fd_flags,
    put_unused_fd,
)
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.runtime.task import current
from uvfio.uapi.iommufd_test import (
    MOCK_ACCESS_RW_SLOW_PATH,
    MOCK_ACCESS_RW_WRITE,
    MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
    MOCK_FLAGS_ACCESS_SYZ,
    MOCK_FLAGS_ACCESS_WRITE,
)

MAX_LENGTH = 16 << 20


class SelftestAccessItem:
    """``struct selftest_access_item``: one range that is pinned."""

    def __init__(self, id: int, iova: int, length: int) -> None:
        self.id = id
        self.iova = iova
        self.length = length


@kstruct("next_id")
class SelftestAccess:
    """``struct selftest_access``."""

    access: IommufdAccess

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.lock = Mutex("selftest_access.lock")
        self.items: list[SelftestAccessItem] = []  # lock
        self.next_id = 0  # lock

    def unmap(self, iova: int, length: int) -> None:
        """``iommufd_test_access_unmap()``: unpin and forget what is in the range."""
        last = iova + length - 1
        with self.lock:
            for item in list(self.items):
                if item.iova <= last and iova <= item.iova + item.length - 1:
                    self.items.remove(item)
                    iommufd_access.iommufd_access_unpin_pages(self.access, item.iova, item.length)


class SelftestAccessFileOperations(FileOperations):
    """``iommfd_test_staccess_fops``."""

    name = "[iommufd_test_staccess]"

    def release(self, file: File) -> None:
        staccess: SelftestAccess = file.private_data
        # An access that is being destroyed is not asked to unpin any more.
        staccess.unmap(0, ULONG_MAX)
        iommufd_access.iommufd_access_destroy(staccess.access)
        kfree(staccess)


def iommufd_test_create_access(ucmd: IommufdUcmd, arg: Any) -> None:
    """The answer is an fd; closing it ends the access."""
    if arg.flags & ~MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES:
        raise Errno(EOPNOTSUPP)
    staccess = kzalloc(SelftestAccess, arg.flags)
    fd = get_unused_fd_flags(O_CLOEXEC)
    file: File | None = None
    try:
        needs_pin = bool(arg.flags & MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES)
        staccess.access = iommufd_access.iommufd_access_create(ucmd.ictx, staccess.unmap, needs_pin)
        file = anon_inode_getfile("[iommufd_test_staccess]", SelftestAccessFileOperations(), staccess)
        iommufd_access.iommufd_access_attach(staccess.access, ucmd.cmd.id)
        arg.out_access_fd = fd
        selftest.respond(ucmd, arg)
    except Errno:
        put_unused_fd(fd)
        if file is not None:
            fput_sync(file)  # which destroys the access
        else:
            kfree(staccess)
        raise
    fd_install(fd, file)


def iommufd_test_access_get(fd: int) -> tuple[File, SelftestAccess]:
    """The access behind *fd*, whose file is referenced. Errno EBADFD."""
    try:
        file = fget(fd)
    except Errno as e:
        raise Errno(EBADFD if e.number == EBADF else e.number) from None
    if not isinstance(file.f_op, SelftestAccessFileOperations):
        fput(file)
        raise Errno(EBADFD)
    return file, file.private_data


def iommufd_test_access_replace_ioas(ucmd: IommufdUcmd, arg: Any) -> None:
    file, staccess = iommufd_test_access_get(ucmd.cmd.id)
    try:
        iommufd_access.iommufd_access_replace(staccess.access, arg.ioas_id)
    finally:
        fput(file)


def iommufd_test_access_pages(ucmd: IommufdUcmd, arg: Any) -> None:
    """Pin a range; with *uptr* it must be the memory that is there now."""
    if arg.length > MAX_LENGTH:
        raise Errno(ENOMEM)
    if arg.flags & ~(MOCK_FLAGS_ACCESS_WRITE | MOCK_FLAGS_ACCESS_SYZ):
        raise Errno(EOPNOTSUPP)
    file, staccess = iommufd_test_access_get(ucmd.cmd.id)
    try:
        if staccess.access.unmap is None:
            raise Errno(EOPNOTSUPP)
        _access_pages(ucmd, arg, staccess)
    finally:
        fput(file)


def _access_pages(ucmd: IommufdUcmd, arg: Any, staccess: SelftestAccess) -> None:
    access, iova, length = staccess.access, arg.iova, arg.length
    if arg.flags & MOCK_FLAGS_ACCESS_SYZ:
        iova = _iommufd_test_syz_conv_iova(access, iova)
    prot = IOMMU_WRITE if arg.flags & MOCK_FLAGS_ACCESS_WRITE else IOMMU_READ
    # An unmap asks at once, and must find all that is pinned: else it gives up, with a warning.
    with staccess.lock:
        pages = iommufd_access.iommufd_access_pin_pages(access, iova, length, prot)
        try:
            if arg.uptr:
                _check_pages(arg.uptr - (iova & PAGE_MASK), pages)
            item = SelftestAccessItem(staccess.next_id, iova, length)
            arg.out_access_pages_id = item.id
            selftest.respond(ucmd, arg)
        except Errno:
            iommufd_access.iommufd_access_unpin_pages(access, iova, length)
            raise
        staccess.next_id += 1
        staccess.items.append(item)


def _check_pages(uptr: int, pages: list[Any]) -> None:
    """``iommufd_test_check_pages()``. Errno EFAULT, EBADE another page."""
    mm = current().process.mm
    for index, page in enumerate(pages):
        if mm.phys(uptr + index * PAGE_SIZE) != page.phys(0):
            raise Errno(EBADE)


def iommufd_test_access_item_destroy(ucmd: IommufdUcmd, arg: Any) -> None:
    """DESTROY_ACCESS_PAGES. Errno ENOENT no such item, or an unmap has taken it."""
    file, staccess = iommufd_test_access_get(ucmd.cmd.id)
    try:
        with staccess.lock:
            for item in staccess.items:
                if item.id == arg.access_pages_id:
                    iommufd_access.iommufd_access_unpin_pages(staccess.access, item.iova, item.length)
                    staccess.items.remove(item)
                    return
        raise Errno(ENOENT)
    finally:
        fput(file)


def iommufd_test_access_rw(ucmd: IommufdUcmd, arg: Any) -> None:
    """Copy between the IOAS and the program's memory."""
    if arg.length > MAX_LENGTH:
        raise Errno(ENOMEM)
    if arg.flags & ~(MOCK_ACCESS_RW_WRITE | MOCK_ACCESS_RW_SLOW_PATH | MOCK_FLAGS_ACCESS_SYZ):
        raise Errno(EOPNOTSUPP)
    file, staccess = iommufd_test_access_get(ucmd.cmd.id)
    try:
        access, iova = staccess.access, arg.iova
        data = copy_from_user(arg.uptr, arg.length) if arg.flags & MOCK_ACCESS_RW_WRITE else None
        if arg.flags & MOCK_FLAGS_ACCESS_SYZ:
            iova = _iommufd_test_syz_conv_iova(access, iova)
        slow = bool(arg.flags & MOCK_ACCESS_RW_SLOW_PATH)
        found = iommufd_access.iommufd_access_rw(access, iova, arg.length, data, slow)
        if data is None:
            copy_to_user(arg.uptr, found)
    finally:
        fput(file)


def _iommufd_test_syz_conv_iova(access: IommufdAccess, iova: int) -> int:
    with access.ioas_lock:
        return iova if access.ioas is None else iommufd_test_syz_conv_iova(access.ioas.iopt, iova)


def iommufd_test_syz_conv_iova_id(ucmd: IommufdUcmd) -> None:
    """The same for the source of IOMMU_IOAS_COPY; nothing in a kernel without the selftest."""
    file_operations: Any = ucmd.ictx.file.f_op
    if not file_operations.test:
        return
    ucmd.cmd.flags &= ~MOCK_FLAGS_ACCESS_SYZ
    try:
        found = ioas.iommufd_get_ioas(ucmd.ictx, ucmd.cmd.src_ioas_id)
    except Errno:
        return  # for the call itself to find out
    ucmd.cmd.src_iova = iommufd_test_syz_conv_iova(found.iopt, ucmd.cmd.src_iova)
    objects.iommufd_put_object(ucmd.ictx, found)


def iommufd_test_syz_conv_iova(iopt: IoPagetable, iova: int) -> int:
    """For fuzzers, which cannot know addresses: an offset into the n-th area. 0 if there is none."""
    nth, offset = iova & 0xFFFFFFFF, iova >> 32
    with iopt.iova_rwsem.read():
        for area in iopt.area_itree:
            if not nth:
                return area.start + offset
            nth -= 1
    return 0
