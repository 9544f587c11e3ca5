# SPDX-License-Identifier: GPL-2.0-only
"""
SR-IOV: the virtual functions of a physical function come and go. Mirrors
``drivers/pci/iov.c``, its attributes in sysfs included.

``sriov_numvfs`` is read and written under the device lock of the physical function, and
virtual functions are removed under it: whoever has one open makes everybody wait. As in
Linux 7.3.4, only a write to ``sriov_numvfs`` takes ``pci_rescan_remove_lock`` too, and that
after the device lock; a driver that is unbound removes them without it.

All differences from Linux: virtual functions are on the bus of their physical function;
ARI, VF migration, dependent functions and VF resizable BARs do not exist; the page size
is 4 KiB; no driver distributes MSI-X vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EBUSY, EINVAL, EIO, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP, ERANGE
from typing import Any

from uvfio.linux.base import core, dd, pci_probe
from uvfio.linux.base.pci_dev import Bar, PciDev, pci_find_ext_capability
from uvfio.linux.base.private import AnyAttribute
from uvfio.linux.base.sysfs import kstrtobool, kstrtoint, kstrtoul, sysfs_create_link, sysfs_remove_link
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.runtime.errors import Errno
from uvfio.uapi.pci_regs import (
    PCI_EXT_CAP_ID_SRIOV,
    PCI_SRIOV_CTRL,
    PCI_SRIOV_CTRL_MSE,
    PCI_SRIOV_CTRL_VFE,
    PCI_SRIOV_INITIAL_VF,
    PCI_SRIOV_NUM_VF,
    PCI_SRIOV_TOTAL_VF,
    PCI_SRIOV_VF_DID,
    PCI_SRIOV_VF_OFFSET,
    PCI_SRIOV_VF_STRIDE,
)

U16_MAX = 0xFFFF


class PciSriov:
    """``struct pci_sriov``: what the kernel knows of the capability at *pos* of *dev*."""

    def __init__(self, dev: PciDev, pos: int) -> None:
        config = dev.config
        self.pos = pos
        self.total_VFs = config.read(pos + PCI_SRIOV_TOTAL_VF, 2)
        self.initial_VFs = config.read(pos + PCI_SRIOV_INITIAL_VF, 2)
        self.offset = config.read(pos + PCI_SRIOV_VF_OFFSET, 2)
        self.stride = config.read(pos + PCI_SRIOV_VF_STRIDE, 2)
        self.vf_device = config.read(pos + PCI_SRIOV_VF_DID, 2)
        self.num_VFs = 0  # device.mutex
        self.drivers_autoprobe = True
        self.bars: Sequence[Bar] = dev.model.sriov.bars  # of the first virtual function


def pci_iov_init(dev: PciDev) -> None:
    """A function was found: is it a physical one?"""
    pos = pci_find_ext_capability(dev, PCI_EXT_CAP_ID_SRIOV)
    if pos and dev.model.sriov is not None and dev.config.read(pos + PCI_SRIOV_TOTAL_VF, 2):
        dev.sriov = PciSriov(dev, pos)


def pci_num_vf(dev: PciDev) -> int:
    """How many virtual functions of *dev* are enabled."""
    return dev.sriov.num_VFs if dev.sriov is not None else 0


def pci_iov_virtfn_name(dev: PciDev, vf_id: int) -> str:
    """The address of the virtual function: its routing identifier counts from that of *dev*."""
    devfn = dev.devfn + dev.sriov.offset + dev.sriov.stride * vf_id
    return f"{dev.domain:04x}:{dev.bus_nr + (devfn >> 8):02x}:{devfn >> 3 & 0x1F:02x}.{devfn & 7}"


def pci_enable_sriov(dev: PciDev, nr_virtfn: int) -> None:
    """
    Enable the first *nr_virtfn* virtual functions of *dev*, whose lock the caller holds.
    Errno ENOTTY not a physical function, EINVAL enabled already or too many, EIO.
    """
    if dev.sriov is None:
        raise Errno(ENOTTY)
    iov: PciSriov = dev.sriov
    if not nr_virtfn:
        return
    if iov.num_VFs:
        raise Errno(EINVAL)
    if iov.initial_VFs > iov.total_VFs:
        raise Errno(EIO, "the capability contradicts itself")
    if nr_virtfn > iov.initial_VFs:
        raise Errno(EINVAL)
    dev.config.write(iov.pos + PCI_SRIOV_NUM_VF, 2, nr_virtfn)
    _sriov_control(dev, True)
    try:
        _sriov_add_vfs(dev, nr_virtfn)
    except Errno:
        _sriov_control(dev, False)
        dev.config.write(iov.pos + PCI_SRIOV_NUM_VF, 2, 0)
        raise
    iov.num_VFs = nr_virtfn


def pci_disable_sriov(dev: PciDev) -> None:
    """Remove the virtual functions of *dev*; returns when nobody uses one of them."""
    iov: PciSriov | None = dev.sriov
    if iov is None or not iov.num_VFs:
        return
    for vf_id in range(iov.num_VFs):
        pci_iov_remove_virtfn(dev, vf_id)
    _sriov_control(dev, False)
    iov.num_VFs = 0
    dev.config.write(iov.pos + PCI_SRIOV_NUM_VF, 2, 0)


def _sriov_control(dev: PciDev, on: bool) -> None:
    dev.config.write(dev.sriov.pos + PCI_SRIOV_CTRL, 2, PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE if on else 0)


def _sriov_add_vfs(dev: PciDev, num_vfs: int) -> None:
    for vf_id in range(num_vfs):
        try:
            pci_iov_add_virtfn(dev, vf_id)
        except Errno:
            for added in reversed(range(vf_id)):
                pci_iov_remove_virtfn(dev, added)
            raise


def pci_iov_add_virtfn(dev: PciDev, vf_id: int) -> None:
    """Errno ENOMEM when its address is on another bus, or taken."""
    name = pci_iov_virtfn_name(dev, vf_id)
    if int(name[5:7], 16) != dev.bus_nr or name in pci_probe.pci_host().found:
        raise Errno(ENOMEM, f"there must be room for a virtual function at {name}")
    for bar, first in zip(dev.model.sriov.functions[vf_id].bars, dev.sriov.bars, strict=True):
        bar.addr = first.addr + vf_id * first.size
    virtfn = pci_probe.pci_setup_device(dev.model.sriov.functions[vf_id], name, dev.pci_bus, dev)
    # Bound when its links are there: a driver may look for its physical function.
    virtfn.match_driver = False
    core.device_add(virtfn)
    assert dev.kobj is not None
    assert virtfn.kobj is not None
    sysfs_create_link(dev.kobj, virtfn.kobj, f"virtfn{vf_id}")
    sysfs_create_link(virtfn.kobj, dev.kobj, "physfn")
    virtfn.is_added = virtfn.match_driver = True
    dd.device_initial_probe(virtfn)


def pci_iov_remove_virtfn(dev: PciDev, vf_id: int) -> None:
    """The links go first: while somebody has the function open, it already looks like nobody's."""
    virtfn = pci_probe.pci_host().found.get(pci_iov_virtfn_name(dev, vf_id))
    if virtfn is None:
        return
    if dev.kobj is not None:
        sysfs_remove_link(dev.kobj, f"virtfn{vf_id}")
    if virtfn.kobj is not None:
        sysfs_remove_link(virtfn.kobj, "physfn")
    pci_probe.pci_stop_and_remove_bus_device(virtfn)


def sriov_attributes(dev: PciDev) -> list[AnyAttribute]:
    """``sriov_pf_dev_attrs`` or ``sriov_vf_dev_attrs``, or neither."""
    if dev.physfn is not None:
        return [Attribute("sriov_vf_msix_count", 0o200, store=lambda data: sriov_vf_msix_count_store(dev, data))]
    iov: PciSriov | None = dev.sriov
    if iov is None:
        return []

    def numvfs_show() -> str:
        with dev.mutex:  # else one could see the number of before while a driver changes it
            return f"{iov.num_VFs}\n"

    def total_msix_show() -> str:
        with dev.mutex:
            return "0\n"

    def set_autoprobe(data: bytes) -> None:
        iov.drivers_autoprobe = kstrtobool(data)

    return [
        Attribute("sriov_totalvfs", 0o444, lambda: f"{iov.total_VFs}\n"),
        Attribute("sriov_numvfs", 0o644, numvfs_show, lambda data: sriov_numvfs_store(dev, data)),
        Attribute("sriov_offset", 0o444, lambda: f"{iov.offset}\n"),
        Attribute("sriov_stride", 0o444, lambda: f"{iov.stride}\n"),
        Attribute("sriov_vf_device", 0o444, lambda: f"{iov.vf_device:x}\n"),
        Attribute("sriov_drivers_autoprobe", 0o644, lambda: f"{int(iov.drivers_autoprobe)}\n", set_autoprobe),
        Attribute("sriov_vf_total_msix", 0o444, total_msix_show),
    ]


def sriov_numvfs_store(dev: PciDev, data: bytes) -> None:
    """Errno EINVAL no number, ERANGE too many, ENOENT no driver that could, EBUSY another number is enabled."""
    wanted = kstrtoul(data)
    if wanted > U16_MAX:
        raise Errno(EINVAL)
    if wanted > dev.sriov.total_VFs:
        raise Errno(ERANGE)
    with dev.mutex:
        if wanted == dev.sriov.num_VFs:
            return
        driver: Any = dev.driver
        if driver is None:
            raise Errno(ENOENT, "a driver must be bound")
        if wanted and dev.sriov.num_VFs:
            raise Errno(EBUSY, "the virtual functions must be disabled before")
        with pci_probe.pci_host().rescan_remove_lock:
            driver.sriov_configure(dev, wanted)


def sriov_vf_msix_count_store(virtfn: PciDev, data: bytes) -> None:
    """Errno EINVAL no number, EOPNOTSUPP as no driver distributes vectors."""
    if kstrtoint(data) < 0:
        raise Errno(EINVAL)
    assert virtfn.physfn is not None
    # As Linux does. That waits for a lock under which the attribute, and we in it, are waited for.
    with virtfn.physfn.mutex:
        raise Errno(EOPNOTSUPP)
