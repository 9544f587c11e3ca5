# SPDX-License-Identifier: GPL-2.0-only
"""
vfio-ap: cryptographic adapters for guests. Mirrors ``drivers/s390/crypto/vfio_ap_ops.c``.

A mediated device can be opened only with a VM, and by one device of that VM; the guest may
then use the queues directly. Differences from Linux: there is no cryptography, no
instruction of the guest that is intercepted (PQAP) and so no interrupt of a queue, and the
AP bus neither adds nor takes away anything. The driver is called ``vfio_ap`` where that of
the mediated devices is called ``vfio_ap_mdev``.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EINVAL, ENOTTY, EPERM

from uvfio.linux.base.sysfs import sysfs_create_files, sysfs_remove_files
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.process import EventfdCtx, eventfd_ctx_fdget
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.kvm.main import kvm_get_kvm, kvm_put_kvm
from uvfio.linux.kvm.private import Kvm
from uvfio.linux.mdev.private import MdevDevice, MdevDriver
from uvfio.linux.s390 import vfio_ap_assign, vfio_ap_queue
from uvfio.linux.s390.vfio_ap_private import (
    ApMatrix,
    ApMatrixMdev,
    VfioApQueue,
    matrix_dev,
    update_locks_for_kvm,
    update_locks_for_mdev,
)
from uvfio.linux.vfio import main
from uvfio.linux.vfio.iommufd import VfioIommufdEmulatedOps
from uvfio.linux.vfio.pci.core import vfio_set_irqs_validate
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi import vfio as uapi
from uvfio.uapi import vfio_ap as uapi_ap

MAX_ZDEV_ENTRIES = 65536
REQUEST_NOTICE = 10  # every so many times that a user is asked to let go, the log says so
INFO_MIN_SIZE = uapi.vfio_device_info.offsetof("cap_offset")
EVENTFD_TRIGGER = uapi.VFIO_IRQ_SET_DATA_EVENTFD | uapi.VFIO_IRQ_SET_ACTION_TRIGGER


class VfioApOps(VfioIommufdEmulatedOps):
    """``vfio_ap_matrix_dev_ops``."""

    name = "vfio-ap"

    def release(self, device: VfioDevice) -> None:
        matrix_mdev: ApMatrixMdev = device.drvdata
        for trigger in (matrix_mdev.req_trigger, matrix_mdev.cfg_chg_trigger):
            if trigger is not None:
                trigger.put()
        kfree(matrix_mdev)

    def open_device(self, device: VfioDevice) -> None:
        if device.kvm is None:
            raise Errno(EINVAL)
        vfio_ap_mdev_set_kvm(device.drvdata, device.kvm)

    def close_device(self, device: VfioDevice) -> None:
        vfio_ap_mdev_unset_kvm(device.drvdata)

    def ioctl(self, device: VfioDevice, cmd: int, arg: int) -> int:
        matrix_mdev: ApMatrixMdev = device.drvdata
        with matrix_dev().mdevs_lock:
            if cmd == uapi.VFIO_DEVICE_GET_INFO:
                return _get_info(arg)
            if cmd == uapi.VFIO_DEVICE_RESET:
                vfio_ap_queue.vfio_ap_mdev_reset_queues(vfio_ap_queue.vfio_ap_mdev_for_each_queue(matrix_mdev))
                return 0
            if cmd == uapi.VFIO_DEVICE_GET_IRQ_INFO:
                return _get_irq_info(arg)
            if cmd == uapi.VFIO_DEVICE_SET_IRQS:
                return _set_irqs(matrix_mdev, arg)
        raise Errno(ENOTTY)

    def request(self, device: VfioDevice, count: int) -> None:
        matrix_mdev: ApMatrixMdev = device.drvdata
        with update_locks_for_mdev(matrix_mdev):
            if matrix_mdev.req_trigger is not None:
                if not count % REQUEST_NOTICE:
                    printk(f"{device.dev.name}: Relaying device request to user (#{count})")
                matrix_mdev.req_trigger.signal()
            elif not count:
                printk(f"{device.dev.name}: No device request registered, blocked until released by user")


VFIO_AP_OPS = VfioApOps()


class VfioApDriver(MdevDriver):
    """``vfio_ap_matrix_driver``."""

    name = module = "vfio_ap"
    device_api = "vfio-ap"
    max_instances = MAX_ZDEV_ENTRIES

    def probe(self, dev: MdevDevice) -> None:
        matrix_mdev = kzalloc(ApMatrixMdev, dev)
        matrix_mdev.vdev = main.vfio_alloc_device(dev, VFIO_AP_OPS, matrix_mdev)
        main.vfio_assign_device_set(matrix_mdev.vdev, matrix_mdev.vdev)
        dev.driver_data = matrix_mdev
        with matrix_dev().mdevs_lock:
            matrix_dev().mdev_list.append(matrix_mdev)
        try:
            main.vfio_register_emulated_iommu_dev(matrix_mdev.vdev)
        except Errno:
            with matrix_dev().mdevs_lock:
                matrix_dev().mdev_list.remove(matrix_mdev)
            main.vfio_put_device(matrix_mdev.vdev)
            raise
        assert dev.kobj is not None
        sysfs_create_files(dev.kobj, vfio_ap_assign.vfio_ap_mdev_attrs(matrix_mdev))

    def remove(self, dev: MdevDevice) -> None:
        matrix_mdev: ApMatrixMdev = dev.driver_data
        assert dev.kobj is not None
        # Waits for who is in one of them; nobody assigns anything from here on.
        sysfs_remove_files(dev.kobj, vfio_ap_assign.vfio_ap_mdev_attrs(matrix_mdev))
        main.vfio_unregister_group_dev(matrix_mdev.vdev)
        with matrix_dev().guests_lock, matrix_dev().mdevs_lock:
            vfio_ap_queue.vfio_ap_mdev_reset_queues(vfio_ap_queue.vfio_ap_mdev_for_each_queue(matrix_mdev))
            vfio_ap_queue.vfio_ap_mdev_unlink_queues(matrix_mdev, matrix_mdev.matrix.queues())
            matrix_dev().mdev_list.remove(matrix_mdev)
        main.vfio_put_device(matrix_mdev.vdev)


def vfio_ap_mdev_set_kvm(matrix_mdev: ApMatrixMdev, kvm: Kvm) -> None:
    """The guest may use the device. Errno EPERM if it uses another one."""
    with update_locks_for_kvm(kvm):
        for other in matrix_dev().mdev_list:
            if other is not matrix_mdev and other.kvm is kvm:
                raise Errno(EPERM)
        kvm_get_kvm(kvm)
        matrix_mdev.kvm = kvm
        vfio_ap_queue.vfio_ap_mdev_update_guest_apcb(matrix_mdev)


def vfio_ap_mdev_unset_kvm(matrix_mdev: ApMatrixMdev) -> None:
    """It may no more, and leaves nothing behind."""
    kvm = matrix_mdev.kvm
    if kvm is None:
        return
    with update_locks_for_kvm(kvm):
        vfio_ap_queue.vfio_ap_mdev_clear_guest_apcb(matrix_mdev)
        vfio_ap_queue.vfio_ap_mdev_reset_queues(vfio_ap_queue.vfio_ap_mdev_for_each_queue(matrix_mdev))
        kvm_put_kvm(kvm)  # not the last: VFIO has one until the device is closed
        matrix_mdev.kvm = None


def vfio_ap_init(adapters: Iterable[int], domains: Iterable[int]) -> None:
    """``module_init``: these are there, and all of their queues bound to vfio_ap."""
    dev = matrix_dev()
    dev.host = ApMatrix(set(adapters), set(domains), set(domains))
    dev.queues = {apqn: kzalloc(VfioApQueue, apqn) for apqn in dev.host.queues()}


def vfio_ap_exit() -> None:
    """``module_exit``, once there is no device any more."""
    while matrix_dev().queues:
        _apqn, q = matrix_dev().queues.popitem()
        kfree(q)


def _get_info(arg: int) -> int:
    info = uapi.vfio_device_info.unpack(copy_from_user(arg, INFO_MIN_SIZE))
    if info.argsz < INFO_MIN_SIZE:
        raise Errno(EINVAL)
    info.flags = uapi_ap.VFIO_DEVICE_FLAGS_AP | uapi.VFIO_DEVICE_FLAGS_RESET
    info.num_regions = 0
    info.num_irqs = uapi_ap.VFIO_AP_NUM_IRQS
    copy_to_user(arg, info.pack()[:INFO_MIN_SIZE])
    return 0


def _get_irq_info(arg: int) -> int:
    info = uapi.vfio_irq_info.unpack(copy_from_user(arg, uapi.vfio_irq_info.size_of))
    if info.argsz < uapi.vfio_irq_info.size_of or info.index >= uapi_ap.VFIO_AP_NUM_IRQS:
        raise Errno(EINVAL)
    info.flags = uapi.VFIO_IRQ_INFO_EVENTFD
    info.count = 1
    copy_to_user(arg, info.pack())
    return 0


def _set_irqs(matrix_mdev: ApMatrixMdev, arg: int) -> int:
    irqs = uapi.vfio_irq_set.unpack(copy_from_user(arg, uapi.vfio_irq_set.size_of))
    vfio_set_irqs_validate(irqs, 1)
    if irqs.index >= uapi_ap.VFIO_AP_NUM_IRQS or irqs.flags != EVENTFD_TRIGGER:
        raise Errno(EINVAL)
    fd = int.from_bytes(copy_from_user(arg + uapi.vfio_irq_set.size_of, 4), "little", signed=True)
    if irqs.index == uapi_ap.VFIO_AP_REQ_IRQ_INDEX:
        matrix_mdev.req_trigger = _set_trigger(matrix_mdev.req_trigger, fd)
    else:
        matrix_mdev.cfg_chg_trigger = _set_trigger(matrix_mdev.cfg_chg_trigger, fd)
    return 0


def _set_trigger(old: EventfdCtx | None, fd: int) -> EventfdCtx | None:
    """The trigger that *fd* is, none for -1. Errno EINVAL, or those of an fd that is no eventfd."""
    if fd < -1:
        raise Errno(EINVAL)
    new = eventfd_ctx_fdget(fd) if fd >= 0 else None
    if old is not None:
        old.put()
    return new
