# SPDX-License-Identifier: GPL-2.0-only
"""
Scenarios of SR-IOV: virtual functions that come and go while somebody uses or watches them.

A driver removes virtual functions under the device lock of the physical one, and a write
to ``sriov_numvfs`` has ``pci_rescan_remove_lock`` besides.
"""

from __future__ import annotations

import struct
from typing import Any

from uvfio.devices.kit import PciBar, PciDevice
from uvfio.devices.sriov import Sriov
from uvfio.linux.base.pci import pci_add_device, pci_host
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_read, kernfs_write
from uvfio.linux.kernel.user import UserProcess
from uvfio.linux.vfio.pci.sriov import vfio_pci_core_sriov_configure
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.vfio import (
    VFIO_DEVICE_BIND_FLAG_TOKEN,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_FEATURE,
    VFIO_DEVICE_FEATURE_SET,
)

PF, VF = "0000:00:01.0", "0000:00:01.1"
TOKEN, OTHER_TOKEN = bytes(16), bytes(15) + b"\1"


class Function(PciDevice):
    """The virtual function."""

    name = "vf"
    virtual = True
    config_size = 4096
    BARS = {0: PciBar(4096)}


class Card(PciDevice):
    """A physical function with one virtual function."""

    name = "pf"
    config_size = 4096

    def __init__(self) -> None:
        super().__init__()
        self.sriov = Sriov(self.config, 0x100, [Function()], lambda: None)


def plug(enabled: bool) -> None:
    """The card, bound to vfio-pci; with its virtual function if *enabled*."""
    pci_add_device(Card(), PF)
    write(attribute(PF, "driver_override"), "vfio-pci")
    write(node("/sys/bus/pci/drivers_probe"), PF)
    write(node("/sys/module/vfio_pci/parameters/enable_sriov"), "Y")
    if enabled:
        configure(1)


def configure(number: int) -> None:
    """What the driver does for a write to ``sriov_numvfs``, or when it is unbound."""
    pdev = pci_host().found[PF]
    with pdev.mutex:
        vfio_pci_core_sriov_configure(pdev.driver_data, number)


def node(path: str) -> KernfsNode:
    found = kernfs_find(path)
    assert found is not None
    return found


def attribute(bdf: str, name: str) -> KernfsNode:
    return node(f"/sys/devices/pci0000:00/{bdf}/{name}")


def write(file: KernfsNode, text: str) -> None:
    kernfs_write(file, text.encode())


def bind(user: UserProcess, number: int, token: bytes | None = None) -> int:
    """Open the *number*-th device node, perhaps with a token."""
    device, iommufd, arg = user.open(f"/dev/vfio/devices/vfio{number}"), user.open("/dev/iommu"), user.mm.mmap(4096)
    flags = 0 if token is None else VFIO_DEVICE_BIND_FLAG_TOKEN
    user.mm.write(arg, struct.pack("<IIiIQ", 24, flags, iommufd, 0, arg + 24) + (token or b""))
    user.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, arg)
    return device


@scenario(("unplugged", "closed"), expected="deadlock")
def read_numvfs_vs_unplug(scene: Scene) -> None:
    """Can a program that is asked for its device look how many virtual functions it has, before it lets go?"""
    plug(False)
    user = scene.process("dpdk")
    device = bind(user, 0)
    numvfs = attribute(PF, "sriov_numvfs")

    def look_and_close() -> None:
        kernfs_read(numvfs)
        user.close(device)

    scene.task("A", lambda: scene.unplug(PF), "unplugged")
    scene.task("B", look_and_close, "closed")


@scenario(
    *(("disabled", errno) for errno in ("EOPNOTSUPP", "ENODEV", "EAGAIN")),
    expected="deadlock",
)
def msix_count_vs_disable(scene: Scene) -> None:
    """Can a virtual function be given vectors while it is disabled?"""
    plug(True)
    count = attribute(VF, "sriov_vf_msix_count")
    scene.task("A", lambda: configure(0), "disabled")
    scene.task("B", lambda: write(count, "1"), "set")


@scenario(
    *((answer, "removed") for answer in ("enabled", "ENODEV", "ENOENT", "EAGAIN")),
    expected="deadlock",
)
def numvfs_vs_remove(scene: Scene) -> None:
    """Can virtual functions be enabled while their physical function is removed?"""
    plug(False)
    numvfs, remove = attribute(PF, "sriov_numvfs"), attribute(PF, "remove")
    scene.task("A", lambda: write(numvfs, "1"), "enabled")
    scene.task("B", lambda: write(remove, "1"), "removed")


@scenario(("unbound", "rescanned"), expected="use-after-free")
def unbind_vs_rescan(scene: Scene) -> None:
    """Can the bus be scanned while a driver that is unbound takes its virtual functions away?"""
    plug(True)
    unbind, rescan = node("/sys/bus/pci/drivers/vfio-pci/unbind"), node("/sys/bus/pci/rescan")
    scene.task("A", lambda: write(unbind, PF), "unbound")
    scene.task("B", lambda: write(rescan, "1"), "rescanned")


@scenario(("disabled", "opened"), *(("disabled", errno) for errno in ("ENODEV", "ENXIO", "ENOENT")))
def disable_vs_open(scene: Scene) -> None:
    """Does a virtual function go when, and only when, nobody has it open?"""
    plug(True)
    owner, user = scene.process("pf"), scene.process()
    owner.close(set_token(owner)[0])

    def use() -> None:
        user.close(bind(user, 1, TOKEN))

    scene.task("A", lambda: configure(0), "disabled")
    scene.task("B", use, "opened")


@scenario(("set", "opened"), ("set", "EACCES"))
def token_vs_open(scene: Scene) -> None:
    """Is a token that is being replaced either the old one or the new one?"""
    plug(True)
    owner, user = scene.process("pf"), scene.process()
    device, arg = set_token(owner)
    owner.mm.write(arg, struct.pack("<II", 24, VFIO_DEVICE_FEATURE_SET) + OTHER_TOKEN)

    def use() -> None:
        user.close(bind(user, 1, TOKEN))

    scene.task("A", lambda: owner.ioctl(device, VFIO_DEVICE_FEATURE, arg), "set")
    scene.task("B", use, "opened")


def set_token(owner: UserProcess) -> tuple[int, Any]:
    """Open the physical function, so that its token is known; the file, and memory for an argument."""
    return bind(owner, 0, TOKEN), owner.mm.mmap(4096)
