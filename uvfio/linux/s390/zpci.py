# SPDX-License-Identifier: GPL-2.0-only
"""
zPCI functions come, go, fail and recover.

Mirrors ``arch/s390/pci/pci.c``, ``pci_bus.c``, ``pci_event.c``, ``pci_debug.c`` (one
file: the counters) and ``drivers/pci/hotplug/s390_pci_hpc.c``. All differences from
Linux:

* every function is on the one PCI bus of the machine, at an address that is also its id;
* a function that is plugged in is configured and enabled at once; one that is
  deconfigured is given back to the hypervisor at once (``reserved``);
* the function measurement block is not modelled;
* error recovery by the device's driver is not: user space resets its device.

Lock order: see ``ZpciDev``; ``pci_rescan_remove_lock`` is below ``state_lock``, and
``zpci_add_remove_lock`` below that: whoever may drop the last reference of a function
holds ``pci_rescan_remove_lock`` already.
"""

from __future__ import annotations

from errno import EIO, ENODEV
from typing import Any

from uvfio.linux.base.bus import bus_register_notifier
from uvfio.linux.base.pci import pci_bus_type, pci_host, pci_unplug
from uvfio.linux.base.private import BUS_NOTIFY_ADD_DEVICE
from uvfio.linux.iommu import s390, zpci_insn
from uvfio.linux.iommu.zpci_insn import (
    ZPCI_FN_STATE_CONFIGURED,
    ZPCI_FN_STATE_RESERVED,
    ZPCI_FN_STATE_STANDBY,
    ZpciDev,
    ZpciFunction,
    zdev_enabled,
)
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.rcu import kfree_rcu
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import per_machine


class ZpciBus:
    """Statics of ``pci_bus.c``."""

    def __init__(self) -> None:
        self.zpci_add_remove_lock = Mutex("zpci_add_remove_lock")


zpci_bus = per_machine(ZpciBus)


def zpci_init() -> None:
    """PCI of s390 and its IOMMU."""
    bus_register_notifier(pci_bus_type(), zpci_bus_notifier)
    s390.s390_iommu_init()


def zpci_bus_notifier(action: int, dev: Any) -> None:
    # Heard before the IOMMU core, which asks for the function behind the device.
    if action == BUS_NOTIFY_ADD_DEVICE:
        zpci_setup_bus_resources(dev)


def zpci_setup_bus_resources(dev: Any) -> None:
    """``pcibios_device_add``: *dev* keeps its function, which is configured if it was not."""
    zdev = s390.s390_iommu().devices.get(dev.name) or zpci_create_device(dev.name)
    if zdev.state != ZPCI_FN_STATE_CONFIGURED:
        zpci_scan_configured_device(zdev)
    zdev.kref.get()

    def release(freed: Any) -> None:
        kfree(freed)
        zpci_zdev_put(zdev)

    dev.release = release


def zpci_get(fid: str) -> ZpciDev:
    """The function. Errno ENODEV."""
    zdev = s390.s390_iommu().devices.get(fid)
    if zdev is None:
        raise Errno(ENODEV)
    return zdev


def zpci_create_device(fid: str) -> ZpciDev:
    zdev = kzalloc(ZpciDev, fid)
    s390.s390_iommu().devices[fid] = zdev
    return zdev


def zpci_scan_configured_device(zdev: ZpciDev) -> None:
    """Hardware has appeared behind *zdev*: enable it."""
    zpci_insn.zpci_firmware().functions[zdev.fid] = ZpciFunction(zdev.fid)
    # No state_lock: nothing uses the function yet, and whoever scans the bus holds
    # pci_rescan_remove_lock, which an unplug takes with state_lock held.
    zpci_enable_device(zdev)
    zdev.state = ZPCI_FN_STATE_CONFIGURED


def zpci_zdev_put(zdev: ZpciDev) -> None:
    """The caller holds ``pci_rescan_remove_lock``, if this may be the last reference."""
    with zpci_bus().zpci_add_remove_lock:
        zdev.kref.put(zpci_release_device, zdev)


def zpci_release_device(zdev: ZpciDev) -> None:
    lockdep_assert_held(pci_host().rescan_remove_lock)  # the resources of the bus go with it
    WARN_ON(zdev.state != ZPCI_FN_STATE_RESERVED, f"{zdev!r} is freed while it is configured")
    kfree_rcu(zdev)


def zpci_enable_device(zdev: ZpciDev) -> None:
    """Errno EIO."""
    cc, _status = zpci_insn.clp_enable_fh(zdev)
    if cc:
        raise Errno(EIO)


def zpci_disable_device(zdev: ZpciDev) -> None:
    """Whatever the hardware answers, it is disabled afterwards."""
    zpci_insn.clp_disable_fh(zdev)


def zpci_reenable_device(zdev: ZpciDev) -> None:
    """After a disable: enable, and register the translation again. Errno EIO."""
    zpci_enable_device(zdev)
    cc, _status = s390.zpci_iommu_register_ioat(zdev)
    if cc:
        zpci_disable_device(zdev)
        raise Errno(EIO)


# Slots


def disable_slot(zdev: ZpciDev) -> None:
    """``echo 0 > power``: returns when nobody uses the function. Errno EIO if it is not configured."""
    with zdev.state_lock:
        if zdev.state != ZPCI_FN_STATE_CONFIGURED:
            raise Errno(EIO)
        zpci_deconfigure_device(zdev)


def reset_slot(zdev: ZpciDev) -> None:
    """Errno EIO while the function changes state, or has none to reset."""
    if not zdev.state_lock.trylock():
        raise Errno(EIO)
    try:
        if zdev.state != ZPCI_FN_STATE_CONFIGURED:
            raise Errno(EIO)
        zpci_hot_reset_device(zdev)
    finally:
        zdev.state_lock.unlock()


def zpci_hot_reset_device(zdev: ZpciDev) -> None:
    """Disable and enable it again, with what it was attached to. Errno EIO."""
    lockdep_assert_held(zdev.state_lock)
    if zdev_enabled(zdev):
        zpci_disable_device(zdev)
    zpci_reenable_device(zdev)


def zpci_deconfigure_device(zdev: ZpciDev) -> None:
    lockdep_assert_held(zdev.state_lock)
    zpci_bus_remove_device(zdev)
    if zdev_enabled(zdev):
        zpci_disable_device(zdev)
    zpci_insn.zpci_function(zdev).present = False  # sclp_pci_deconfigure()
    zdev.state = ZPCI_FN_STATE_STANDBY


def zpci_bus_remove_device(zdev: ZpciDev) -> None:
    if zdev.fid in pci_host().found:
        pci_unplug(zdev.fid)


# Events


def zpci_event_hard_deconfigured(zdev: ZpciDev) -> None:
    """The function has been pulled. The device goes, as in an ordinary unplug."""
    with zdev.state_lock:
        if zdev.state != ZPCI_FN_STATE_CONFIGURED:
            return
        zpci_bus_remove_device(zdev)
        if zdev_enabled(zdev):
            zpci_disable_device(zdev)
        zdev.state = ZPCI_FN_STATE_STANDBY


def zpci_device_reserved(zdev: ZpciDev) -> None:
    """The hypervisor has taken the function back: forget it."""
    with zdev.state_lock:
        if zdev.state == ZPCI_FN_STATE_RESERVED:
            return
        zdev.state = ZPCI_FN_STATE_RESERVED
        del s390.s390_iommu().devices[zdev.fid]
    with pci_host().rescan_remove_lock:
        zpci_zdev_put(zdev)


def zpci_unplug(fid: str) -> None:
    """Deconfigure, unless the hardware did so already, and give back."""
    zdev = s390.s390_iommu().devices.get(fid)
    if zdev is None:
        return
    with zdev.state_lock:
        if zdev.state == ZPCI_FN_STATE_CONFIGURED:
            zpci_deconfigure_device(zdev)
    zpci_device_reserved(zdev)


def pci_perf_show(zdev: ZpciDev) -> str:
    """``statistics`` in debugfs: the counters of the domain the function is on."""
    with zdev.dom_lock:
        ctrs = s390.zpci_get_iommu_ctrs(zdev)
        if ctrs is None:
            return ""
        return f"Mapped pages: {ctrs.mapped_pages}\nUnmapped pages: {ctrs.unmapped_pages}\n"
