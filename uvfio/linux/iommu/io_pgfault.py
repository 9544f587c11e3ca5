# SPDX-License-Identifier: GPL-2.0-only
"""
IO page faults: from the device that asks to the domain that can help, and back.

Mirrors ``drivers/iommu/io-pgfault.c``. Differences from Linux: ``iopf_queue_flush_dev``
has nothing to wait for, as no handler here is put off to the work queue of a queue (only
SVA does that); memory never runs out, so no group is aborted for that.

A driver reports faults one by one; those of one group of requests are kept until its
last, which takes all of them to the ``iopf_handler`` of the domain. Whoever the group was
given to answers it (:func:`iopf_group_response`) and frees it (:func:`iopf_free_group`).

Lock order: ``iopf_queue.lock``, ``iommu_fault_param.lock``; ``dev_iommu.lock`` is a leaf.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV
from typing import Any

from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IOMMU_DOMAIN_NESTED, IOMMU_NO_PASID, IommuAttachHandle
from uvfio.linux.kernel.bug import WARN_ON
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.refcount import Refcount
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kstruct, kzalloc

# struct iommu_fault_page_request
IOMMU_FAULT_PAGE_REQUEST_PASID_VALID = 1 << 0
IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE = 1 << 1

IOMMU_FAULT_PERM_READ = 1 << 0
IOMMU_FAULT_PERM_WRITE = 1 << 1
IOMMU_FAULT_PERM_EXEC = 1 << 2
IOMMU_FAULT_PERM_PRIV = 1 << 3

# enum iommu_page_response_code
IOMMU_PAGE_RESP_SUCCESS = 0
IOMMU_PAGE_RESP_INVALID = 1
IOMMU_PAGE_RESP_FAILURE = 2


class IopfFault:
    """``struct iopf_fault`` with its ``struct iommu_fault_page_request``."""

    __slots__ = ("addr", "flags", "grpid", "pasid", "perm")

    def __init__(self, flags: int, pasid: int, grpid: int, perm: int, addr: int) -> None:
        self.flags = flags
        self.pasid = pasid
        self.grpid = grpid
        self.perm = perm
        self.addr = addr


class IommuPageResponse:
    """``struct iommu_page_response``."""

    __slots__ = ("code", "grpid", "pasid")

    def __init__(self, fault: IopfFault, code: int) -> None:
        self.pasid = fault.pasid
        self.grpid = fault.grpid
        self.code = code


@kstruct("attach_handle", "pending")
class IopfGroup:
    """``struct iopf_group``: the faults that are answered together, the last one last."""

    def __init__(self, faults: list[IopfFault], fault_param: IommuFaultParam, handle: IommuAttachHandle) -> None:
        self.faults = faults
        self.fault_param = fault_param
        self.attach_handle = handle
        self.pending = True  # fault_param.lock; the hardware waits for an answer
        self.cookie = 0  # the handler's

    @property
    def last_fault(self) -> IopfFault:
        return self.faults[-1]


@kstruct()
class IommuFaultParam:
    """``struct iommu_fault_param``: a device whose faults are taken."""

    def __init__(self, dev: Any, queue: IopfQueue) -> None:
        self.lock = Mutex("iommu_fault_param.lock")
        self.users = Refcount("iommu_fault_param.users")
        self.dev = dev
        self.queue = queue
        self.partial: list[IopfFault] = []  # lock; of groups whose last is to come
        self.faults: list[IopfGroup] = []  # lock; those the hardware waits for


class IopfQueue:
    """``struct iopf_queue``: the devices of an IOMMU whose faults are taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = Mutex("iopf_queue.lock")
        self.devices: list[IommuFaultParam] = []  # lock


def iopf_queue_add_device(queue: IopfQueue, dev: Any) -> None:
    """From now on the driver may report faults of *dev*. Errno ENODEV, EBUSY."""
    if dev.iommu is None:
        raise Errno(ENODEV)
    with queue.lock, dev.iommu.lock:
        if dev.iommu.fault_param is not None:
            raise Errno(EBUSY)
        param = kzalloc(IommuFaultParam, dev, queue)
        queue.devices.append(param)
        dev.iommu.fault_param = param


def iopf_queue_remove_device(queue: IopfQueue, dev: Any) -> None:
    """
    No more of *dev*: it does not ask any more, and what it has asked is answered with
    INVALID here. The groups stay with those who have them.
    """
    with queue.lock, dev.iommu.lock:
        param = dev.iommu.fault_param
        if WARN_ON(param is None or param.queue is not queue, "page faults are taken off a queue that they are not on"):
            return
        with param.lock:
            param.partial.clear()
            for group in param.faults:
                group.pending = False
                _page_response(dev, group.last_fault, IOMMU_PAGE_RESP_INVALID)
            param.faults.clear()
        queue.devices.remove(param)
        dev.iommu.fault_param = None
    iopf_put_dev_fault_param(param)


def iopf_queue_discard_partial(queue: IopfQueue) -> None:
    """The hardware lost requests: groups that wait for their last will not see it."""
    with queue.lock:
        for param in queue.devices:
            with param.lock:
                param.partial.clear()


def iopf_get_dev_fault_param(dev: Any) -> IommuFaultParam | None:
    """The fault parameters of *dev*, referenced."""
    with dev.iommu.lock:
        param: IommuFaultParam | None = dev.iommu.fault_param
        if param is not None:
            param.users.inc()
        return param


def iopf_put_dev_fault_param(param: IommuFaultParam) -> None:
    if param.users.dec_and_test():
        kfree(param)


def iommu_report_device_fault(dev: Any, fault: IopfFault) -> None:
    """
    A driver's *dev* asks for a page. Errno EINVAL when nobody is there to help; the
    hardware has its answer in any case, or gets it later.
    """
    handle = _find_fault_handler(dev, fault)
    if handle is None:
        _page_response(dev, fault, IOMMU_PAGE_RESP_INVALID)
        raise Errno(EINVAL)
    param = iopf_get_dev_fault_param(dev)
    if WARN_ON(param is None, "a domain takes page faults of a device that cannot have any"):
        _page_response(dev, fault, IOMMU_PAGE_RESP_INVALID)
        raise Errno(EINVAL)
    assert param is not None
    if not fault.flags & IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE:
        with param.lock:
            param.partial.append(fault)
        iopf_put_dev_fault_param(param)
        return
    group = _iopf_group_alloc(param, fault, handle)
    assert handle.domain is not None
    assert handle.domain.iopf_handler is not None
    try:
        handle.domain.iopf_handler(group)
    except Errno:
        printk(f"{dev.name}: iopf with pasid {fault.pasid} aborted")
        iopf_group_response(group, IOMMU_PAGE_RESP_FAILURE)
        iopf_free_group(group)


def _find_fault_handler(dev: Any, fault: IopfFault) -> IommuAttachHandle | None:
    """What is attached to the fault's PASID, if that can help."""
    group = dev.iommu_group
    try:
        if not fault.flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID:
            handle = iommu.iommu_attach_handle_get(group, IOMMU_NO_PASID)
        else:
            try:
                handle = iommu.iommu_attach_handle_get(group, fault.pasid)
            except Errno:
                if not dev.iommu.iommu_dev.ops.user_pasid_table:
                    return None
                handle = iommu.iommu_attach_handle_get(group, IOMMU_NO_PASID, IOMMU_DOMAIN_NESTED)
    except Errno:
        return None
    return handle if handle.domain is not None and handle.domain.iopf_handler is not None else None


def _iopf_group_alloc(param: IommuFaultParam, fault: IopfFault, handle: IommuAttachHandle) -> IopfGroup:
    """The group that *fault* ends; has the caller's reference to *param*."""
    with param.lock:
        faults = [each for each in param.partial if each.grpid == fault.grpid]
        param.partial = [each for each in param.partial if each.grpid != fault.grpid]
        group = kzalloc(IopfGroup, [*faults, fault], param, handle)
        param.faults.append(group)
    return group


def iopf_group_response(group: IopfGroup, code: int) -> None:
    """Answer the hardware, if nobody has done it in the handler's place."""
    param = group.fault_param
    with param.lock:
        if group.pending:
            group.pending = False
            param.faults.remove(group)
            _page_response(param.dev, group.last_fault, code)


def iopf_free_group(group: IopfGroup) -> None:
    param = group.fault_param
    kfree(group)
    iopf_put_dev_fault_param(param)


def _page_response(dev: Any, fault: IopfFault, code: int) -> None:
    dev.iommu.iommu_dev.ops.page_response(dev, fault, IommuPageResponse(fault, code))
