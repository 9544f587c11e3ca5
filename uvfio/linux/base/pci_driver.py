# SPDX-License-Identifier: GPL-2.0-only
"""
The PCI bus type and its drivers. Mirrors ``drivers/pci/pci-driver.c``.

Differences from Linux: no power management; of error recovery only the news of an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENODEV, ENOENT
from typing import Any

from uvfio.linux.base import bus, dd, pci_sysfs
from uvfio.linux.base.pci_dev import PciDev
from uvfio.linux.base.private import AnyAttribute, BusType, Driver
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import per_machine

PCI_ANY_ID = 0xFFFFFFFF


@dataclass(frozen=True)
class PciDeviceId:
    """``struct pci_device_id``. *override_only*: matches through driver_override alone."""

    vendor: int = PCI_ANY_ID
    device: int = PCI_ANY_ID
    subvendor: int = PCI_ANY_ID
    subdevice: int = PCI_ANY_ID
    class_code: int = 0
    class_mask: int = 0
    override_only: bool = False

    def matches(self, dev: PciDev) -> bool:
        return (
            self.vendor in (PCI_ANY_ID, dev.vendor)
            and self.device in (PCI_ANY_ID, dev.device)
            and self.subvendor in (PCI_ANY_ID, dev.subsystem_vendor)
            and self.subdevice in (PCI_ANY_ID, dev.subsystem_device)
            and not (self.class_code ^ dev.class_code) & self.class_mask
        )


class PciDriver(Driver):
    """``struct pci_driver``: subclasses say *id_table*, ``probe(pdev)`` and ``remove(pdev)``."""

    id_table: Sequence[PciDeviceId] = ()

    def __init__(self) -> None:
        super().__init__()
        self.dynids: list[PciDeviceId] = []

    def sriov_configure(self, dev: PciDev, num_virtfn: int) -> None:
        """Enable so many virtual functions of *dev*; 0: disable them. Errno, ENOENT when the driver cannot."""
        raise Errno(ENOENT, f"{self.name} has no sriov_configure")

    def err_error_detected(self, dev: PciDev) -> None:
        """``err_handler->error_detected``: *dev* has met an error that cannot be corrected."""

    def err_reset_prepare(self, dev: PciDev) -> None:
        """``err_handler->reset_prepare``: the function is about to be reset."""

    def err_reset_done(self, dev: PciDev) -> None:
        """``err_handler->reset_done``."""


class PciBusType(BusType):
    """``pci_bus_type``."""

    def __init__(self) -> None:
        super().__init__("pci")

    def match(self, dev: Any, drv: Any) -> bool:
        return dev.match_driver and pci_match_device(drv, dev) is not None

    def probe(self, dev: Any) -> None:
        if not pci_device_can_probe(dev):
            raise Errno(ENODEV)
        super().probe(dev)

    def uevent(self, dev: Any) -> dict[str, str]:
        return {
            "PCI_CLASS": f"{dev.class_code:04X}",
            "PCI_ID": f"{dev.vendor:04X}:{dev.device:04X}",
            "PCI_SUBSYS_ID": f"{dev.subsystem_vendor:04X}:{dev.subsystem_device:04X}",
            "PCI_SLOT_NAME": dev.bdf,
            "MODALIAS": pci_sysfs.modalias(dev),
        }

    def bus_groups(self) -> Sequence[AnyAttribute]:
        return pci_sysfs.bus_attributes()

    def dev_groups(self, dev: Any) -> Sequence[AnyAttribute]:
        return pci_sysfs.dev_attributes(dev)

    def drv_groups(self, drv: Any) -> Sequence[AnyAttribute]:
        return (
            Attribute("new_id", 0o200, store=lambda data: new_id_store(drv, data)),
            Attribute("remove_id", 0o200, store=lambda data: remove_id_store(drv, data)),
        )


pci_bus_type = per_machine(PciBusType)


def pci_register_driver(drv: PciDriver) -> None:
    bus.driver_register(pci_bus_type(), drv)


def pci_unregister_driver(drv: PciDriver) -> None:
    bus.driver_unregister(drv)
    drv.dynids.clear()


def pci_match_device(drv: PciDriver, dev: PciDev) -> PciDeviceId | None:
    """The id by which *drv* may drive *dev*; None if it may not."""
    override = dev.driver_override
    if override is not None and override != drv.name:
        return None
    for each in drv.dynids:
        if each.matches(dev):
            return each
    for each in drv.id_table:
        if each.matches(dev) and (override is not None or not each.override_only):
            return each
    return PciDeviceId() if override is not None else None


def pci_device_can_probe(dev: PciDev) -> bool:
    """Virtual functions may be kept from drivers; who is named by driver_override gets them all the same."""
    return dev.physfn is None or dev.physfn.sriov.drivers_autoprobe or dev.driver_override is not None


def new_id_store(drv: PciDriver, data: bytes) -> None:
    """Errno EINVAL on bad fields, EEXIST when *drv* has such an id."""
    new, exact = _parse_id(data)
    if not exact and any(_covers(each, new) for each in (*drv.dynids, *drv.id_table)):
        raise Errno(EEXIST)
    drv.dynids.append(new)
    dd.driver_attach(drv)


def remove_id_store(drv: PciDriver, data: bytes) -> None:
    """Errno EINVAL on bad fields, ENODEV when it is not one that was added."""
    unwanted, _exact = _parse_id(data)
    for each in drv.dynids:
        if (each.vendor, each.device) == (unwanted.vendor, unwanted.device):
            drv.dynids.remove(each)
            return
    raise Errno(ENODEV)


def _covers(have: PciDeviceId, new: PciDeviceId) -> bool:
    return (
        not have.override_only
        and have.vendor in (PCI_ANY_ID, new.vendor)
        and have.device in (PCI_ANY_ID, new.device)
        and have.subvendor in (PCI_ANY_ID, new.subvendor)
        and have.subdevice in (PCI_ANY_ID, new.subdevice)
        and not (have.class_code ^ new.class_code) & have.class_mask
    )


def _parse_id(data: bytes) -> tuple[PciDeviceId, bool]:
    """The id, and whether all seven fields were given (then nothing is checked)."""
    fields: list[int] = []
    for word in data.split()[:7]:
        try:
            fields.append(int(word, 16) & 0xFFFFFFFF)
        except ValueError:
            break
    if len(fields) < 2:
        raise Errno(EINVAL, "vendor and device must be given, in hex")
    names = ("vendor", "device", "subvendor", "subdevice", "class_code", "class_mask")
    new = PciDeviceId(**dict(zip(names, fields, strict=False)))  # type: ignore[arg-type]
    return new, len(fields) == 7
