# SPDX-License-Identifier: GPL-2.0-only
"""
IOMMU_TEST_CMD: the kernel's own test interface of iommufd.

Mirrors ``drivers/iommu/iommufd/selftest.c``: the call itself and the ops on objects; what
they work on is in the other ``selftest_*.py``. It is there in a machine that is made with
``iommufd_test=True``. All differences from Linux:

* IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT is checked and has no effect: nothing here is done
  in batches of a limited size;
* IOMMU_TEST_OP_MD_CHECK_REFS counts how often iommufd has a page pinned, and not what
  else in the machine may hold it; a transparent huge page is made of ordinary ones.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from errno import EINVAL, EIO, EOPNOTSUPP, EOVERFLOW
from types import MappingProxyType
from typing import Any

from uvfio.linux.iommu.private import IOMMU_NO_PASID
from uvfio.linux.iommufd import (
    device,
    ioas,
    objects,
    pages,
    selftest_access,
    selftest_device,
    selftest_dmabuf,
    selftest_events,
    selftest_pasid,
)
from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_HWPT_NESTED,
    IOMMUFD_OBJ_HWPT_PAGING,
    IOMMUFD_OBJ_SELFTEST,
    PAGE_MASK,
    PAGE_SIZE,
    ULONG_MAX,
    IommufdHwptNested,
    IommufdHwptPaging,
    IommufdUcmd,
    SelftestObj,
)
from uvfio.linux.kernel.uaccess import copy_from_user
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.runtime.task import current
from uvfio.uapi import iommufd_test as uapi

MIN_MEMORY_LIMIT = 12
DIRTY_MAX_BYTES = 16 << 20

Op = Callable[[IommufdUcmd, Any], int | None]


def iommufd_test(ucmd: IommufdUcmd) -> int:
    op = OPS.get(ucmd.cmd.op)
    if op is None:
        raise Errno(EOPNOTSUPP)
    _name, member = uapi.OPS[ucmd.cmd.op]
    return op(ucmd, member.unpack(ucmd.cmd.u)) or 0


def respond(ucmd: IommufdUcmd, arg: Any) -> None:
    """Copy the whole command back, with *arg* for the union. Errno EFAULT."""
    data = arg.pack()
    ucmd.cmd.u = data + ucmd.cmd.u[len(data) :]
    ucmd.respond()


# Mock devices


def iommufd_test_mock_domain(ucmd: IommufdUcmd, arg: Any) -> None:
    _mock_domain(ucmd, arg, 0)


def iommufd_test_mock_domain_flags(ucmd: IommufdUcmd, arg: Any) -> None:
    _mock_domain(ucmd, arg, arg.dev_flags)


def _mock_domain(ucmd: IommufdUcmd, arg: Any, dev_flags: int) -> None:
    """Make a device, bind it and attach it; all or nothing."""
    ictx = ucmd.ictx
    sobj = kzalloc(SelftestObj)
    objects.iommufd_object_alloc(ictx, sobj)
    attached = False
    try:
        sobj.mock_dev = selftest_device.mock_dev_create(dev_flags)
        sobj.idev = device.iommufd_device_bind(ictx, sobj.mock_dev)
        pt_id = device.iommufd_device_attach(sobj.idev, IOMMU_NO_PASID, ucmd.cmd.id)
        attached = True
        arg.out_hwpt_id = pt_id
        arg.out_stdev_id = sobj.id
        arg.out_idev_id = sobj.idev.id
        respond(ucmd, arg)
    except Errno:
        _put_device(sobj, attached)
        objects.iommufd_object_abort(ictx, sobj)
        raise
    objects.iommufd_object_finalize(ictx, sobj)


def iommufd_selftest_destroy(sobj: SelftestObj) -> None:
    _put_device(sobj, True)


def _put_device(sobj: SelftestObj, attached: bool) -> None:
    if attached:
        device.iommufd_device_detach(sobj.idev, IOMMU_NO_PASID)
    if sobj.idev is not None:
        device.iommufd_device_unbind(sobj.idev)
    if sobj.mock_dev is not None:
        selftest_device.mock_dev_destroy(sobj.mock_dev)


def iommufd_test_mock_domain_replace(ucmd: IommufdUcmd, arg: Any) -> None:
    sobj: SelftestObj = objects.iommufd_get_object(ucmd.ictx, ucmd.cmd.id, IOMMUFD_OBJ_SELFTEST)
    try:
        arg.pt_id = device.iommufd_device_replace(sobj.idev, IOMMU_NO_PASID, arg.pt_id)
        respond(ucmd, arg)
    finally:
        objects.iommufd_put_object(ucmd.ictx, sobj)


# What is mapped


def iommufd_test_add_reserved(ucmd: IommufdUcmd, arg: Any) -> None:
    """Nothing may be mapped there any more, as long as the IOAS lives."""
    if not arg.length:
        raise Errno(EINVAL)
    last = arg.start + arg.length - 1
    if last > ULONG_MAX:
        raise Errno(EOVERFLOW)
    found = ioas.iommufd_get_ioas(ucmd.ictx, ucmd.cmd.id)
    try:
        with found.iopt.iova_rwsem.write():
            iova_ranges.iopt_reserve_iova(found.iopt, arg.start, last, None)
    finally:
        objects.iommufd_put_object(ucmd.ictx, found)


def iommufd_test_md_check_pa(ucmd: IommufdUcmd, arg: Any) -> None:
    """MD_CHECK_MAP. Errno ENOENT, EFAULT, EINVAL alignment or not what the page table has."""
    hwpt: IommufdHwptPaging = objects.iommufd_get_object(ucmd.ictx, ucmd.cmd.id, IOMMUFD_OBJ_HWPT_PAGING)
    try:
        domain = hwpt.domain
        assert domain is not None
        step = domain.pgsize_bitmap & -domain.pgsize_bitmap
        if (arg.iova | arg.length | arg.uptr) & (step - 1):
            raise Errno(EINVAL)
        mm = current().process.mm
        for at in range(0, arg.length, step):
            if mm.phys(arg.uptr + at) != domain.iova_to_phys(arg.iova + at):
                raise Errno(EINVAL)
    finally:
        objects.iommufd_put_object(ucmd.ictx, hwpt)


def iommufd_test_md_check_refs(_ucmd: IommufdUcmd, arg: Any) -> None:
    """Errno EINVAL alignment, EFAULT, EIO a page has another number of pins. Those of huge pages are not looked at."""
    if (arg.length | arg.uptr) & PAGE_MASK:
        raise Errno(EINVAL)
    mm = current().process.mm
    for at in range(0, arg.length, PAGE_SIZE):
        phys = mm.phys(arg.uptr + at)
        if mm.page_size(arg.uptr + at) == PAGE_SIZE and pages.page_pins(phys) != arg.refs:
            raise Errno(EIO)


def iommufd_test_dirty(ucmd: IommufdUcmd, arg: Any) -> None:
    """What a device would do that writes where the bitmap at *uptr* says."""
    page_size = arg.page_size
    if not page_size or not arg.length or arg.iova % page_size or arg.length % page_size or not arg.uptr:
        raise Errno(EINVAL)
    count = arg.length // page_size
    if count > DIRTY_MAX_BYTES * 8:
        raise Errno(EOVERFLOW)
    hwpt: IommufdHwptPaging = objects.iommufd_get_object(ucmd.ictx, ucmd.cmd.id, IOMMUFD_OBJ_HWPT_PAGING)
    try:
        domain = hwpt.domain
        assert domain is not None
        if not domain.dirty_enabled:
            raise Errno(EINVAL)
        arg.out_nr_dirty = 0
        for bit in _set_bits(copy_from_user(arg.uptr, -(-count // 8)), count):
            domain.set_dirty(arg.iova + bit * page_size)
            arg.out_nr_dirty += 1
        respond(ucmd, arg)
    finally:
        objects.iommufd_put_object(ucmd.ictx, hwpt)


def _set_bits(bitmap: bytes, count: int) -> Iterator[int]:
    for at, word in enumerate(struct.iter_unpack("<Q", bitmap.ljust(-(-len(bitmap) // 8) * 8, b"\0"))):
        bits = word[0]
        while bits:
            bit = at * 64 + (bits & -bits).bit_length() - 1
            if bit >= count:
                return
            yield bit
            bits &= bits - 1


def iommufd_test_set_memory_limit(_ucmd: IommufdUcmd, arg: Any) -> None:
    if arg.limit < MIN_MEMORY_LIMIT:
        raise Errno(EINVAL)


# Caches


def iommufd_test_md_check_iotlb(ucmd: IommufdUcmd, arg: Any) -> None:
    hwpt: IommufdHwptNested = objects.iommufd_get_object(ucmd.ictx, ucmd.cmd.id, IOMMUFD_OBJ_HWPT_NESTED)
    try:
        domain: Any = hwpt.domain
        if arg.id > uapi.MOCK_NESTED_DOMAIN_IOTLB_ID_MAX or domain.iotlb[arg.id] != arg.iotlb:
            raise Errno(EINVAL)
    finally:
        objects.iommufd_put_object(ucmd.ictx, hwpt)


def iommufd_test_dev_check_cache(ucmd: IommufdUcmd, arg: Any) -> None:
    idev = selftest_events.get_mock_device(ucmd.ictx, ucmd.cmd.id)
    try:
        if arg.id > uapi.MOCK_DEV_CACHE_ID_MAX or idev.dev.cache[arg.id] != arg.cache:
            raise Errno(EINVAL)
    finally:
        objects.iommufd_put_object(ucmd.ictx, idev)


OPS: Mapping[int, Op] = MappingProxyType(
    {
        uapi.IOMMU_TEST_OP_ADD_RESERVED: iommufd_test_add_reserved,
        uapi.IOMMU_TEST_OP_MOCK_DOMAIN: iommufd_test_mock_domain,
        uapi.IOMMU_TEST_OP_MD_CHECK_MAP: iommufd_test_md_check_pa,
        uapi.IOMMU_TEST_OP_MD_CHECK_REFS: iommufd_test_md_check_refs,
        uapi.IOMMU_TEST_OP_CREATE_ACCESS: selftest_access.iommufd_test_create_access,
        uapi.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES: selftest_access.iommufd_test_access_item_destroy,
        uapi.IOMMU_TEST_OP_ACCESS_PAGES: selftest_access.iommufd_test_access_pages,
        uapi.IOMMU_TEST_OP_ACCESS_RW: selftest_access.iommufd_test_access_rw,
        uapi.IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT: iommufd_test_set_memory_limit,
        uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE: iommufd_test_mock_domain_replace,
        uapi.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS: selftest_access.iommufd_test_access_replace_ioas,
        uapi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS: iommufd_test_mock_domain_flags,
        uapi.IOMMU_TEST_OP_DIRTY: iommufd_test_dirty,
        uapi.IOMMU_TEST_OP_MD_CHECK_IOTLB: iommufd_test_md_check_iotlb,
        uapi.IOMMU_TEST_OP_TRIGGER_IOPF: selftest_events.iommufd_test_trigger_iopf,
        uapi.IOMMU_TEST_OP_DEV_CHECK_CACHE: iommufd_test_dev_check_cache,
        uapi.IOMMU_TEST_OP_TRIGGER_VEVENT: selftest_events.iommufd_test_trigger_vevent,
        uapi.IOMMU_TEST_OP_PASID_ATTACH: selftest_pasid.iommufd_test_pasid_attach,
        uapi.IOMMU_TEST_OP_PASID_REPLACE: selftest_pasid.iommufd_test_pasid_replace,
        uapi.IOMMU_TEST_OP_PASID_DETACH: selftest_pasid.iommufd_test_pasid_detach,
        uapi.IOMMU_TEST_OP_PASID_CHECK_HWPT: selftest_pasid.iommufd_test_pasid_check_hwpt,
        uapi.IOMMU_TEST_OP_DMABUF_GET: selftest_dmabuf.iommufd_test_dmabuf_get,
        uapi.IOMMU_TEST_OP_DMABUF_REVOKE: selftest_dmabuf.iommufd_test_dmabuf_revoke,
    }
)
