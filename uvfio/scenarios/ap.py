# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of vfio-ap: adapters for guests, given, opened and taken away."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_write
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.user import Eventfd, UserProcess
from uvfio.linux.kernel.wait import Completion
from uvfio.linux.kvm.private import Kvm
from uvfio.linux.s390.vfio_ap_private import matrix_dev
from uvfio.runtime.errors import Splat
from uvfio.runtime.task import current
from uvfio.scenarios.kvm import Vmm
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.kvm import KVM_CREATE_VM
from uvfio.uapi.vfio import VFIO_DEVICE_SET_IRQS, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD
from uvfio.uapi.vfio_ap import VFIO_AP_REQ_IRQ_INDEX

FIRST = "62177883-f1bb-47f0-914d-32a22e3a8804"
SECOND = "cef03c3c-903d-4ecc-9a83-40694cb8aee4"
PARENT = "/sys/devices/virtual/vfio_ap/vfio_ap"


class ApVmm(Vmm):
    """A process with a VM, its kvm-vfio device and the group of a matrix device."""

    def __init__(self, scene: Scene) -> None:
        UserProcess.__init__(self, "vmm")
        scene.processes.append(self)
        self.bdf = FIRST
        kvm = self.open("/dev/kvm")
        self.vm = self.ioctl(kvm, KVM_CREATE_VM)
        self.close(kvm)
        self.kv = self.create_device(self.vm)
        self.group = self.open_group()
        self.add(self.group)()

    def request_irq(self, device: int) -> Eventfd:
        """That by which *device* asks to be closed."""
        eventfd = self.eventfd()
        flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER
        arg = self.struct("5Ii", 24, flags, VFIO_AP_REQ_IRQ_INDEX, 0, 1, eventfd)
        self.ioctl(device, VFIO_DEVICE_SET_IRQS, arg)
        ctx = self.files.eventfd(eventfd)
        del self.files.table[eventfd]  # who polls it here has it, and needs no fd
        return ctx


def write(path: str, text: str) -> Callable[[], int]:
    """The call that writes *text* to an attribute that is there now."""
    node = kernfs_find(f"{PARENT}/{path}")
    assert node is not None
    return partial(kernfs_write, node, text.encode())


def matrix_devices(scene: Scene, *uuids: str) -> None:
    """Each of *uuids* is made, and given domain 0."""
    scene.plug("vfio_ap")
    scene.afterwards(lambda: finish(scene))
    for uuid in uuids:
        write("mdev_supported_types/vfio_ap-passthrough/create", uuid)()
        write(f"{uuid}/assign_domain", "0")()


def finish(scene: Scene) -> None:
    """Guests have what is assigned to them; then all go, and the adapters last."""
    for matrix_mdev in matrix_dev().mdev_list:
        if matrix_mdev.kvm is not None and matrix_mdev.guest_apcb != matrix_mdev.matrix:
            raise Splat("stale-masks", f"{matrix_mdev.mdev.name} has {matrix_mdev.matrix}, its guest another")
    for process in scene.processes:
        process.exit()
    scene.unplug("vfio_ap")


@scenario(("opened", "released"), ("EINVAL", "released"))
def open_vs_kvm_release(scene: Scene) -> None:
    """Can the open of a matrix device, which takes kvm->lock, and the release of kvm-vfio wait for each other?"""
    matrix_devices(scene, FIRST)
    vmm = ApVmm(scene)
    scene.task("A", vmm.get_device(vmm.group), "opened")
    scene.task("B", lambda: vmm.close(vmm.kv), "released")


@scenario(("removed",))
def remove_while_group_is_open(scene: Scene) -> None:
    """Does the removal of a matrix device wait for somebody who never closes its group?"""
    matrix_devices(scene, FIRST)
    scene.process("mdevctl").open("/dev/vfio/1")
    scene.task("A", write(f"{FIRST}/remove", "1"), "removed")


@scenario(("removed", "ENODEV"), ("removed", "closed"))
def remove_vs_open(scene: Scene) -> None:
    """Does a matrix device go when it is opened at the last moment, and closed again?"""
    matrix_devices(scene, FIRST)
    vmm = ApVmm(scene)
    get_device = vmm.get_device(vmm.group)
    scene.task("A", write(f"{FIRST}/remove", "1"), "removed")
    scene.task("B", lambda: vmm.close(get_device()), "closed")


@scenario(("removed", "closed"))
def remove_asks_the_guest(scene: Scene) -> None:
    """Does a VMM hear that its matrix device is wanted back?"""
    matrix_devices(scene, FIRST)
    vmm = ApVmm(scene)
    device = vmm.get_device(vmm.group)()
    eventfd = vmm.request_irq(device)

    def close_on_request() -> None:
        current().runtime.point("poll", eventfd, ready=lambda: eventfd.count > 0)
        vmm.close(device)

    scene.task("A", write(f"{FIRST}/remove", "1"), "removed")
    scene.task("B", close_on_request, "closed")


@scenario(("assigned", "opened"))
def assign_vs_open(scene: Scene) -> None:
    """Does a guest get an adapter that is assigned just as it starts?"""
    matrix_devices(scene, FIRST)
    vmm = ApVmm(scene)
    scene.task("A", write(f"{FIRST}/assign_adapter", "1"), "assigned")
    scene.task("B", vmm.get_device(vmm.group), "opened")


@scenario(("opened", "intercepted", "protected"))
def open_vs_pqap_vs_pv(scene: Scene) -> None:
    """Do a matrix device, an instruction of the guest and its becoming protected take locks in one order?"""
    matrix_devices(scene, FIRST)
    vmm = ApVmm(scene)
    vcpu_mutex = Mutex("vcpu.mutex")
    vm: Kvm = vmm.files.get(vmm.vm).private_data

    def handle_pqap() -> None:
        with vcpu_mutex, matrix_dev().mdevs_lock:
            pass  # it looks for the queue that the guest names

    def kvm_s390_cpus_to_pv() -> None:
        with vm.lock, vcpu_mutex:
            pass

    scene.task("A", vmm.get_device(vmm.group), "opened")
    scene.task("B", handle_pqap, "intercepted")
    scene.task("C", kvm_s390_cpus_to_pv, "protected")


@scenario(("unassigned", "closed"))
def unassign_vs_close(scene: Scene) -> None:
    """Can an adapter be taken from a guest that is just ending?"""
    matrix_devices(scene, FIRST)
    write(f"{FIRST}/assign_adapter", "1")()
    vmm = ApVmm(scene)
    device = vmm.get_device(vmm.group)()
    scene.task("A", write(f"{FIRST}/unassign_adapter", "1"), "unassigned")
    scene.task("B", lambda: vmm.close(device), "closed")


@scenario(("assigned", "EADDRINUSE"), ("EADDRINUSE", "assigned"))
def two_assigns_of_one_queue(scene: Scene) -> None:
    """Can one queue be given to two guests?"""
    matrix_devices(scene, FIRST, SECOND)
    for name, uuid in zip("AB", (FIRST, SECOND), strict=True):
        scene.task(name, write(f"{uuid}/assign_adapter", "1"), "assigned")


@scenario(("assigned", "removed"), ("ENODEV", "removed"))
def assign_twice_and_remove(scene: Scene) -> None:
    """Does a matrix device go that was given the same adapter twice?"""
    matrix_devices(scene, FIRST)
    again, remove = write(f"{FIRST}/assign_adapter", "1"), write(f"{FIRST}/remove", "1")

    def assign_and_remove() -> None:
        again()
        remove()

    scene.task("A", write(f"{FIRST}/assign_adapter", "1"), "assigned")
    scene.task("B", assign_and_remove, "removed")


@scenario(("moved", "untouched"))
def move_and_remove(scene: Scene) -> None:
    """Is a queue left alone by the device that it was taken from, once another has it?"""
    matrix_devices(scene, FIRST, SECOND)
    write(f"{FIRST}/assign_adapter", "1")()
    steps = [write(f"{FIRST}/unassign_adapter", "1"), write(f"{SECOND}/assign_adapter", "1")]
    remove = write(f"{FIRST}/remove", "1")
    queue = matrix_dev().queues[1, 0]

    moved = Completion("moved")

    def move() -> None:
        for step in steps:
            step()
        moved.complete()

    def remove_after() -> str:
        moved.wait_for_completion()
        before = queue.resets
        remove()
        return "untouched" if queue.resets == before else "reset"

    scene.task("A", move, "moved")
    scene.task("B", remove_after, "removed")
