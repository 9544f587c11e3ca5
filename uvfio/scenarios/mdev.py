# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of mediated devices: made, used and removed while their parent goes."""

from __future__ import annotations

import struct
from errno import ENOSPC

from uvfio.devices.mdev import MdevModel
from uvfio.linux.base.core import get_device, put_device
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_read, kernfs_write
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.refcount import Atomic
from uvfio.linux.kernel.slab import fail_slab
from uvfio.linux.kernel.wait import Completion
from uvfio.linux.mdev import core
from uvfio.linux.mdev.private import MdevDevice, MdevDriver, MdevType, mdev
from uvfio.runtime.errors import Errno, Splat
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.runtime.task import current
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.vfio import VFIO_DEVICE_BIND_IOMMUFD

FIRST = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
SECOND = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"
CARD = "/sys/devices/virtual/card/card"


@kstruct("slots")
class CardState:
    """What the driver knows of the card: gone when the parent is unregistered."""

    def __init__(self, slots: int) -> None:
        self.slots = Atomic("card.slots", slots)
        self.devlink_lock = Mutex("card.devlink_lock")


class CardDriver(MdevDriver):
    """A driver of the least there can be: a device is a slot of the card."""

    name = "card"
    device_api = "vfio-pci"
    max_instances = 2

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.card = kzalloc(CardState, slots)
        self.counts_itself = slots < self.max_instances
        self.removing = Completion("card.removing")
        self.in_use: dict[str, Completion] = {}  # by name of the device: waited for as it is removed

    def get_available(self, mtype: MdevType) -> int:
        return self.card.slots.read()

    def probe(self, dev: MdevDevice) -> None:
        if not self.card.slots.read():
            raise Errno(ENOSPC)
        self.card.slots.dec()

    def remove(self, dev: MdevDevice) -> None:
        self.removing.complete()
        if dev.name in self.in_use:
            self.in_use[dev.name].wait_for_completion()
        self.card.slots.inc()


class Card(MdevModel):
    """A card, and what is done with it."""

    name = "card"

    def __init__(self, scene: Scene, slots: int = 2) -> None:
        self.slots = slots
        self.registered = True
        self.held: MdevDevice | None = None  # with a reference until all is over
        super().__init__()
        self.driver: CardDriver
        self.init()
        scene.afterwards(self.gone)

    def make_driver(self) -> CardDriver:
        return CardDriver(self.slots)

    def make_types(self) -> list[MdevType]:
        return [MdevType("1", "One slot")]

    def create(self, uuid: str) -> int:
        return kernfs_write(self.attribute("mdev_supported_types/card-1/create"), uuid.encode())

    def attribute(self, path: str) -> KernfsNode:
        node = kernfs_find(f"{CARD}/{path}")
        assert node is not None
        return node

    def unregister(self) -> None:
        core.mdev_unregister_parent(self.parent)
        self.forget()

    def forget(self) -> None:
        """The parent is unregistered, and the driver has no use for what it knew of the card."""
        kfree(self.driver.card)
        self.registered = False

    def gone(self) -> None:
        for device in mdev().list:
            if device.kobj is not None and "remove" not in device.kobj.children:
                raise Splat("unremovable", "the device is there for good: it has no remove")
        if self.registered:
            self.unregister()
        put_device(self.held)
        available = self.parent.available_instances.value
        if available != self.driver.max_instances:
            raise Splat("leak", f"{self.driver.max_instances - available} instance is taken, and there is no device")
        self.exit_module()


@scenario(("created", "unregistered"), ("ENODEV", "unregistered"))
def create_vs_unregister(scene: Scene) -> None:
    """Can a device be made of a parent that is being unregistered, and stay?"""
    card = Card(scene)
    card.create(FIRST)
    node = card.attribute("mdev_supported_types/card-1/create")
    scene.task("A", lambda: kernfs_write(node, SECOND.encode()), "created")
    scene.task("B", card.unregister, "unregistered")


@scenario(
    ("removed", "unregistered"), ("ENODEV", "unregistered"), ("EAGAIN", "unregistered"), expected="use-after-free"
)
def remove_vs_unregister(scene: Scene) -> None:
    """Does one who removes a device find out safely that the parent has removed it?"""
    card = Card(scene)
    card.create(FIRST)
    remove = card.attribute(f"{FIRST}/remove")
    scene.task("A", lambda: kernfs_write(remove, b"1"), "removed")
    scene.task("B", card.unregister, "unregistered")


@scenario(("removed", "unregistered"), ("ENODEV", "unregistered"))
def remove_vs_unregister_waiting(scene: Scene) -> None:
    """Does a device stay removed, although somebody has a reference, while its parent waits for another?"""
    card = Card(scene)
    card.create(FIRST)
    card.held = get_device(mdev().list[0])
    card.create(SECOND)
    closed = card.driver.in_use[SECOND] = Completion("card.closed")
    remove = card.attribute(f"{FIRST}/remove")

    def remove_then_close() -> None:
        try:
            kernfs_write(remove, b"1")
        finally:
            closed.complete()

    scene.task("A", remove_then_close, "removed")
    scene.task("B", card.unregister, "unregistered")


@scenario(("removed", "unregistered"))
def unregister_while_removing(scene: Scene) -> None:
    """Does a parent wait for a device that its user is removing, even under a lock of its driver?"""
    card = Card(scene)
    card.create(FIRST)
    remove = card.attribute(f"{FIRST}/remove")
    lock = card.driver.card.devlink_lock

    def set_eswitch() -> None:
        card.driver.removing.wait_for_completion()
        with lock:
            core.mdev_unregister_parent(card.parent)
        card.forget()

    scene.task("A", lambda: kernfs_write(remove, b"1"), "removed")
    scene.task("B", set_eswitch, "unregistered")


@scenario(("removed", "removed"), ("removed", "ENODEV"), ("ENODEV", "removed"))
def two_removes(scene: Scene) -> None:
    """Is a device removed once when two do it?"""
    card = Card(scene)
    card.create(FIRST)
    remove = card.attribute(f"{FIRST}/remove")
    for name in "AB":
        scene.task(name, lambda: kernfs_write(remove, b"1"), "removed")


@scenario(("ENOSPC", "0"))
def create_refused(scene: Scene) -> None:
    """Is a device that the driver refuses taken back as it was made?"""
    card = Card(scene, slots=0)
    create = card.attribute("mdev_supported_types/card-1/create")
    available = card.attribute("mdev_supported_types/card-1/available_instances")
    scene.task("A", lambda: kernfs_write(create, FIRST.encode()), "created")
    scene.task("B", lambda: kernfs_read(available).decode().strip(), "read")


@scenario(("created", "removed"), ("created", "EAGAIN"), expected="unremovable")
def remove_vs_create(scene: Scene) -> None:
    """Can a device be removed by one who comes as soon as it is announced, or else later?"""
    card = Card(scene)
    create = card.attribute("mdev_supported_types/card-1/create")
    parent = kernfs_find(CARD)
    assert parent is not None

    def there() -> bool:
        device = parent.children.get(FIRST)
        return device is not None and "remove" in device.children

    def remove_when_there() -> None:
        current().runtime.point("uevent", create, "r", ready=there)
        kernfs_write(card.attribute(f"{FIRST}/remove"), b"1")

    scene.task("A", lambda: kernfs_write(create, FIRST.encode()), "created")
    scene.task("B", remove_when_there, "removed")


@scenario(("ENOMEM", "read"), expected="leak")
def create_without_memory(scene: Scene) -> None:
    """Does a device for which there was no memory take up an instance?"""
    card = Card(scene)
    create = card.attribute("mdev_supported_types/card-1/create")
    available = card.attribute("mdev_supported_types/card-1/available_instances")
    fail_slab().failing.add("MdevDevice")
    scene.task("A", lambda: kernfs_write(create, FIRST.encode()), "created")
    scene.task("B", lambda: len(kernfs_read(available)), "read")


@scenario(("created", "ENOENT"), ("created", "bound"))
def create_vs_open(scene: Scene) -> None:
    """Can a device be opened before its driver knows what it is?"""
    scene.plug("mtty")
    scene.afterwards(lambda: scene.unplug("mtty"))
    create = kernfs_find("/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/create")
    assert create is not None
    user = scene.process()
    iommufd = user.open("/dev/iommu")
    bind = user.mm.mmap(4096)
    user.mm.write(bind, struct.pack("<IIiI", 16, 0, iommufd, 0))

    def use() -> None:
        device = user.open("/dev/vfio/devices/vfio0")
        user.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, bind)
        user.close(device)

    scene.task("A", lambda: kernfs_write(create, FIRST.encode()), "created")
    scene.task("B", use, "bound")
