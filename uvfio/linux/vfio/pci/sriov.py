# SPDX-License-Identifier: GPL-2.0-only
"""
Virtual functions of a function that user space has, and the token that its users share.
Mirrors what ``drivers/vfio/pci/vfio_pci_core.c`` has of it.

A virtual function shares hardware with the physical one: who opens the one trusts
whoever has the other. The token, a UUID, says that they do. Difference from Linux: a
physical function that sleeps is not woken up, for which ``memory_lock`` would be held.
"""

from __future__ import annotations

import uuid
from errno import EACCES, EBUSY, EINVAL, ENOTTY
from typing import Any

from uvfio.linux.base.bus import bus_register_notifier, bus_unregister_notifier
from uvfio.linux.base.pci import PciDev, pci_bus_type, pci_disable_sriov, pci_enable_sriov, pci_num_vf
from uvfio.linux.base.private import BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_BOUND_DRIVER
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.uaccess import copy_from_user
from uvfio.linux.vfio import main
from uvfio.linux.vfio.pci.private import VfioPciCoreDevice, VfioPciVfToken, vfio_pci
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi.vfio import VFIO_DEVICE_FEATURE_SET

VF_TOKEN_SIZE = 16


def vfio_pci_vf_init(core: VfioPciCoreDevice) -> None:
    """*core* registers: a virtual function finds its physical one, that gets a token of its own."""
    pdev = core.pdev
    if pdev.physfn is not None:
        statics = vfio_pci()
        with statics.sriov_pfs_mutex:
            core.sriov_pf_core_dev = next((pf for pf in statics.sriov_pfs if pf.pdev is pdev.physfn), None)
        return
    if pdev.sriov is None:
        return
    core.vf_token = kzalloc(VfioPciVfToken, uuid.uuid4().bytes)
    core.nb = lambda action, dev: vfio_pci_bus_notifier(core, action, dev)
    bus_register_notifier(pci_bus_type(), core.nb)


def vfio_pci_vf_uninit(core: VfioPciCoreDevice) -> None:
    token = core.vf_token
    if token is None:
        return
    assert core.nb is not None
    bus_unregister_notifier(pci_bus_type(), core.nb)
    WARN_ON(token.users > 0, f"{core.pdev.bdf} goes while virtual functions use its token")
    core.vf_token = None
    kfree(token)


def vfio_pci_check_numvfs(pdev: PciDev) -> None:
    """Errno EBUSY: another driver has enabled virtual functions, whom nobody asks for a token."""
    if pci_num_vf(pdev):
        raise Errno(EBUSY, "a function must be bound before its virtual functions are enabled")


def vfio_pci_bus_notifier(core: VfioPciCoreDevice, action: int, dev: Any) -> None:
    """Virtual functions of what a user has are not for drivers of the host."""
    if not isinstance(dev, PciDev) or dev.physfn is not core.pdev:
        return
    if action == BUS_NOTIFY_ADD_DEVICE:
        printk(f"vfio-pci {core.pdev.bdf}: Captured SR-IOV VF {dev.bdf} driver_override")
        dev.driver_override = core.vdev.ops.name
    elif action == BUS_NOTIFY_BOUND_DRIVER and dev.driver is not core.pdev.driver:
        assert dev.driver is not None
        printk(f"vfio-pci {core.pdev.bdf}: VF {dev.bdf} bound to driver {dev.driver.name} while PF bound to vfio-pci")


def vfio_pci_validate_vf_token(core: VfioPciCoreDevice, uuid: bytes | None) -> None:
    """
    May who has the token *uuid* open *core*? One that is given to a physical function whose
    virtual ones nobody uses becomes its token. Errno EACCES it is missing or another;
    EINVAL nobody asked for one.
    """
    pdev = core.pdev
    if pdev.physfn is not None:
        pf = core.sriov_pf_core_dev
        if pf is None:
            if uuid is not None:
                raise Errno(EINVAL, "the physical function is not bound to vfio-pci")
            return
        assert pf.vf_token is not None
        with pf.vf_token.lock:
            if uuid != pf.vf_token.uuid:
                raise Errno(EACCES, "a token must be given, that of the physical function")
    elif core.vf_token is not None:
        with core.vf_token.lock:
            if core.vf_token.users and uuid != core.vf_token.uuid:
                raise Errno(EACCES, "virtual functions are in use: their token must be given")
            if uuid is not None:
                core.vf_token.uuid = uuid
    elif uuid is not None:
        raise Errno(EINVAL, "only SR-IOV functions have tokens")


def vfio_pci_vf_token_use(core: VfioPciCoreDevice, users: int) -> None:
    """A virtual function is opened for the first time (1), or closed for the last time (-1)."""
    if core.sriov_pf_core_dev is None:
        return
    token = core.sriov_pf_core_dev.vf_token
    assert token is not None
    with token.lock:
        token.users += users
        WARN_ON(token.users < 0, "a token has fewer users than none")


def vfio_pci_core_feature_token(core: VfioPciCoreDevice, flags: int, arg: int, argsz: int) -> int:
    """VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: set the token. Errno ENOTTY not a physical function, EINVAL, EFAULT."""
    if core.vf_token is None:
        raise Errno(ENOTTY)
    if not main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, VF_TOKEN_SIZE):
        return 0
    uuid = copy_from_user(arg, VF_TOKEN_SIZE)
    with core.vf_token.lock:
        core.vf_token.uuid = uuid
    return 0


def vfio_pci_core_sriov_configure(core: VfioPciCoreDevice, nr_virtfn: int) -> None:
    """Enable *nr_virtfn* virtual functions, or disable them (0). Errno EINVAL, or what the PCI core says."""
    pdev, statics = core.pdev, vfio_pci()
    lockdep_assert_held(pdev.mutex)
    if not nr_virtfn:
        pci_disable_sriov(pdev)
        _sriov_pfs_remove(core)
        return
    with statics.sriov_pfs_mutex:
        # Who puts the device on the list is the only one to enable anything, so what
        # follows needs no lock.
        if core in statics.sriov_pfs:
            raise Errno(EINVAL)
        statics.sriov_pfs.append(core)
    try:
        pci_enable_sriov(pdev, nr_virtfn)
    except Errno:
        _sriov_pfs_remove(core)
        raise


def _sriov_pfs_remove(core: VfioPciCoreDevice) -> None:
    statics = vfio_pci()
    with statics.sriov_pfs_mutex:
        if core in statics.sriov_pfs:
            statics.sriov_pfs.remove(core)
