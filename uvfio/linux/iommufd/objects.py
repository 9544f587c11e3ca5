# SPDX-License-Identifier: GPL-2.0-only
"""
Objects of an iommufd: ids, references, destruction.

Mirrors the first half of ``drivers/iommu/iommufd/main.c``. Differences from Linux:

* whoever destroys an object waits for calls in progress for ever, not for 60 s: a call
  that never ends is a hang, and not a warning about the one who waits for it;
* a context lives as long as its file, so a reference to it is one to the file.
"""

from __future__ import annotations

from errno import EBUSY, ENOENT
from typing import Any

from uvfio.linux.iommufd import access, device, eventq, hw_pagetable, ioas, selftest, viommu
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_ANY,
    IommufdAccess,
    IommufdCtx,
    IommufdDevice,
    IommufdFault,
    IommufdHwptNested,
    IommufdHwptPaging,
    IommufdHwQueue,
    IommufdIoas,
    IommufdObject,
    IommufdUcmd,
    IommufdVdevice,
    IommufdVeventq,
    IommufdViommu,
    SelftestObj,
)
from uvfio.linux.kernel.bug import WARN_ON, might_sleep
from uvfio.linux.kernel.fs import fput, get_file
from uvfio.linux.kernel.xarray import XA_ZERO_ENTRY
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree

REMOVE_WAIT = 1 << 0
REMOVE_OBJ_TOMBSTONE = 1 << 1  # the id is never given out again


def iommufd_object_alloc(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """Reserve the lowest free id for *obj*; nobody can find it before it is finalized."""
    obj.id = ictx.objects.alloc(XA_ZERO_ENTRY)


def iommufd_object_finalize(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """From here on user space can use *obj*, and destroy it."""
    was = ictx.objects.store(obj.id, obj)
    WARN_ON(was is not None, f"id {obj.id} was not only reserved")


def iommufd_object_abort(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """Undo the allocation of an object that was never finalized."""
    WARN_ON(obj.users.value != 1, "an object that is given up has users")
    was = ictx.objects.erase(obj.id)
    WARN_ON(was is not None, f"id {obj.id} was visible already")
    kfree(obj)


def iommufd_object_abort_and_destroy(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """The same for one that has taken hold of others; the caller has the locks it was made under."""
    iommufd_object_destroy(obj, abort=True)
    iommufd_object_abort(ictx, obj)


def iommufd_lock_obj(obj: IommufdObject) -> bool:
    """Take a reference for the time of a call; False when *obj* is going away."""
    if not obj.users.inc_not_zero():
        return False
    if obj.wait_cnt.inc_not_zero():
        return True
    # The one who destroys it waits for wait_cnt only, so this need not wake anybody.
    obj.users.dec_and_test()
    return False


def iommufd_get_object(ictx: IommufdCtx, id: int, type: str) -> Any:
    """The object, locked against destruction. Errno ENOENT: no such id, or of another type."""
    table = ictx.objects
    table.xa_lock.lock()
    try:
        obj = table.load(id)
        if obj is None or (type != IOMMUFD_OBJ_ANY and obj.type != type) or not iommufd_lock_obj(obj):
            raise Errno(ENOENT)
        return obj
    finally:
        table.xa_lock.unlock()


def iommufd_try_inc_users(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """One of *users* for the kernel. Errno EBUSY: the id of *obj* is not its own any more."""
    with ictx.objects.xa_lock:
        if ictx.objects.load(obj.id) is not obj:
            raise Errno(EBUSY)
        obj.users.inc()


def iommufd_put_object(ictx: IommufdCtx, obj: IommufdObject) -> None:
    # users first: a destroyer that has seen wait_cnt drop must not find users above 1.
    obj.users.dec_and_test()
    if obj.wait_cnt.dec_and_test():
        ictx.destroy_wait.wake_up()


def iommufd_object_remove(ictx: IommufdCtx, to_destroy: IommufdObject | None, id: int, flags: int) -> None:
    """
    Destroy the object with *id*; *to_destroy* is the caller's own reference to it.
    Errno ENOENT, or EBUSY while it has users. With REMOVE_WAIT calls in progress are
    waited for first.
    """
    might_sleep()
    if flags & REMOVE_WAIT:
        assert to_destroy is not None
        _dec_wait(ictx, to_destroy)
    with ictx.objects.xa_lock:
        obj: IommufdObject = ictx.objects.load(id)
        if to_destroy is not None:
            to_destroy.users.dec_and_test()
            if WARN_ON(obj is not to_destroy, f"id {id} is not the object to destroy"):
                raise Errno(ENOENT)
        if obj is None:
            raise Errno(ENOENT)
        if not obj.users.dec_if_one():
            if flags & REMOVE_WAIT:
                obj.wait_cnt.set(1)
            raise Errno(EBUSY)
        ictx.objects.store(id, XA_ZERO_ENTRY if flags & REMOVE_OBJ_TOMBSTONE else None)
        if ictx.vfio_ioas is obj:
            ictx.vfio_ioas = None
    if not flags & REMOVE_WAIT:
        _dec_wait(ictx, obj)
    iommufd_object_destroy(obj)
    kfree(obj)


def _dec_wait(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """Drop the bias of ``wait_cnt`` and wait for calls in progress, and for what else has one."""
    if not obj.wait_cnt.dec_and_test():
        if isinstance(obj, IommufdDevice):  # pre_destroy
            device.iommufd_device_pre_destroy(obj)
        ictx.destroy_wait.wait_event(lambda: obj.wait_cnt.read() == 0)


def iommufd_object_destroy_user(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """
    The kernel destroys an object of its own, of which it holds one of *users*: this
    must work, because whoever calls cannot keep it.
    """
    try:
        iommufd_object_remove(ictx, obj, obj.id, REMOVE_WAIT)
    except Errno as e:
        WARN_ON(True, f"an object of the kernel could not be destroyed: {e}")


def iommufd_object_tombstone_user(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """
    The kernel destroys an object that user space made, of which it holds one of *users*.
    Its id is used up: user space, who knows it, must not hit another object with it.
    """
    try:
        iommufd_object_remove(ictx, obj, obj.id, REMOVE_WAIT | REMOVE_OBJ_TOMBSTONE)
    except Errno as e:
        WARN_ON(True, f"an object of user space could not be destroyed: {e}")


def iommufd_object_put_and_try_destroy(ictx: IommufdCtx, obj: IommufdObject) -> None:
    """Drop the caller's *users*; destroy the object if that leaves only its bias."""
    try:
        iommufd_object_remove(ictx, obj, obj.id, 0)
    except Errno:
        return  # somebody else uses it, or destroys it now


def iommufd_destroy(ucmd: IommufdUcmd) -> None:
    iommufd_object_remove(ucmd.ictx, None, ucmd.cmd.id, 0)


def iommufd_object_destroy(obj: IommufdObject, abort: bool = False) -> None:
    """What else goes when *obj* goes: ``destroy`` of its ``iommufd_object_ops``, or ``abort`` if it has one."""
    if isinstance(obj, IommufdDevice):
        device.iommufd_device_destroy(obj)
    elif isinstance(obj, IommufdHwptPaging):
        hw_pagetable.iommufd_hwpt_paging_destroy(obj, abort)
    elif isinstance(obj, IommufdHwptNested):
        hw_pagetable.iommufd_hwpt_nested_destroy(obj)
    elif isinstance(obj, IommufdIoas):
        ioas.iommufd_ioas_destroy(obj)
    elif isinstance(obj, IommufdAccess):
        access.iommufd_access_destroy_object(obj)
    elif isinstance(obj, SelftestObj):
        selftest.iommufd_selftest_destroy(obj)
    elif isinstance(obj, IommufdViommu):
        viommu.iommufd_viommu_destroy(obj)
    elif isinstance(obj, IommufdVdevice) and abort:
        viommu.iommufd_vdevice_abort(obj)
    elif isinstance(obj, IommufdVdevice):
        viommu.iommufd_vdevice_destroy(obj)
    elif isinstance(obj, IommufdFault):
        eventq.iommufd_fault_destroy(obj)
    elif isinstance(obj, IommufdVeventq) and abort:
        eventq.iommufd_veventq_abort(obj)
    elif isinstance(obj, IommufdVeventq):
        eventq.iommufd_veventq_destroy(obj)
    elif isinstance(obj, IommufdHwQueue):
        viommu.iommufd_hw_queue_destroy(obj)


def iommufd_ctx_get(ictx: IommufdCtx) -> None:
    get_file(ictx.file)


def iommufd_ctx_put(ictx: IommufdCtx) -> None:
    fput(ictx.file)
