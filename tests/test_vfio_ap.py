# SPDX-License-Identifier: GPL-2.0-only
"""vfio-ap: what is assigned to a matrix device, who may open it, and what a guest gets."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from errno import EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENODEV, ENOTTY, EPERM
from typing import Any

import pytest
from clients_build import uvfio_run
from vfio_user import VfioUser, booted, refusal, wait_until

from uvfio.bugs.catalogue import catalogue, check
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_read, kernfs_write
from uvfio.linux.s390.vfio_ap_private import matrix_dev
from uvfio.machine import unplug
from uvfio.runtime.task import current
from uvfio.scenarios.ap import FIRST, PARENT, SECOND
from uvfio.uapi import vfio as uapi
from uvfio.uapi.kvm import (
    KVM_CREATE_DEVICE,
    KVM_CREATE_VM,
    KVM_DEV_TYPE_VFIO,
    KVM_DEV_VFIO_FILE,
    KVM_DEV_VFIO_FILE_ADD,
    KVM_DEV_VFIO_FILE_DEL,
    KVM_SET_DEVICE_ATTR,
)

REQUEST, CONFIG_CHANGED = 0, 1


@pytest.fixture
def run() -> Callable[[Callable[[], Any]], Any]:
    return booted("edu", "vfio_ap").run


def node(path: str) -> KernfsNode:
    found = kernfs_find(f"{PARENT}/{path}")
    assert found is not None, path
    return found


def show(path: str) -> str:
    return kernfs_read(node(path)).decode()


def store(path: str, text: str) -> int:
    """The errno of the write, 0 if it worked."""
    return refusal(kernfs_write, node(path), text.encode())


def create(*uuids: str) -> None:
    for uuid in uuids:
        assert store("mdev_supported_types/vfio_ap-passthrough/create", uuid) == 0


def assign(uuid: str, adapters: str = "", domains: str = "") -> list[int]:
    return [
        *(store(f"{uuid}/assign_adapter", number) for number in adapters),
        *(store(f"{uuid}/assign_domain", number) for number in domains),
    ]


class Guest(VfioUser):
    """A VMM whose VM has been told of the group or cdev files that it opens."""

    def __init__(self) -> None:
        super().__init__("vmm")
        self.vm = self.ioctl(self.open("/dev/kvm"), KVM_CREATE_VM)
        made = self.call(self.vm, KVM_CREATE_DEVICE, struct.pack("<3I", KVM_DEV_TYPE_VFIO, 0, 0))
        self.kv = struct.unpack("<3I", made)[1]

    def tell(self, attr: int, fd: int) -> None:
        at = self.mm.mmap(4)
        self.mm.write(at, struct.pack("<i", fd))
        self.call(self.kv, KVM_SET_DEVICE_ATTR, struct.pack("<IIQQ", 0, KVM_DEV_VFIO_FILE, attr, at))

    def open_cdev(self, number: int) -> int:
        """The open matrix device; edu is number 0."""
        device = self.open(f"/dev/vfio/devices/vfio{number}")
        self.tell(KVM_DEV_VFIO_FILE_ADD, device)
        self.bind(device, self.open("/dev/iommu"))
        return device

    def let_go(self, device: int) -> None:
        """Close it for good: kvm-vfio has the file too."""
        self.tell(KVM_DEV_VFIO_FILE_DEL, device)
        self.close(device)


def test_the_type_and_what_a_device_shows(run):
    def body():
        kind = "mdev_supported_types/vfio_ap-passthrough"
        assert show(f"{kind}/name") == "VFIO AP Passthrough Device\n"
        assert show(f"{kind}/device_api") == "vfio-ap\n"
        assert show(f"{kind}/available_instances") == "65536\n"
        create(FIRST)
        assert show(f"{kind}/available_instances") == "65535\n"
        assert store(f"{FIRST}/assign_adapter", "0x1") == 0
        assert show(f"{FIRST}/matrix") == "01.\n"
        assert store(f"{FIRST}/unassign_adapter", "1") == 0
        assert assign(FIRST, domains="3") == [0]
        assert show(f"{FIRST}/matrix") == ".0003\n"
        assert assign(FIRST, "12", "0") == [0, 0, 0]
        assert show(f"{FIRST}/matrix") == "01.0000\n01.0003\n02.0000\n02.0003\n"
        assert store(f"{FIRST}/assign_control_domain", "15") == 0
        assert show(f"{FIRST}/control_domains") == "000f\n"
        assert store(f"{FIRST}/unassign_control_domain", "15") == 0
        assert show(f"{FIRST}/control_domains") == ""

    run(body)


def test_what_cannot_be_assigned(run):
    def body():
        create(FIRST, SECOND)
        assert store(f"{FIRST}/assign_adapter", "64") == ENODEV
        assert store(f"{FIRST}/unassign_adapter", "64") == ENODEV
        assert store(f"{FIRST}/assign_domain", "16") == ENODEV
        assert store(f"{FIRST}/assign_control_domain", "16") == ENODEV
        assert store(f"{FIRST}/assign_domain", "two") == EINVAL
        assert assign(FIRST, "1", "2") == [0, 0]
        assert assign(FIRST, "1", "2") == [0, 0]  # again: nothing happens
        assert assign(SECOND, "1", "2") == [0, EADDRINUSE]
        assert show(f"{SECOND}/matrix") == "01.\n"
        assert store(f"{FIRST}/unassign_domain", "2") == 0
        assert assign(SECOND, domains="2") == [0]
        matrix_dev().default_apm, matrix_dev().default_aqm = {2}, {3}
        assert assign(FIRST, "2", "3") == [0, EADDRNOTAVAIL]

    run(body)


def test_an_adapter_that_the_host_lacks_is_filtered(run):
    def body():
        create(FIRST)
        assert assign(FIRST, "01", "0") == [0, 0, 0]
        assert store(f"{FIRST}/assign_adapter", "40") == 0
        assert show(f"{FIRST}/matrix") == "00.0000\n01.0000\n28.0000\n"
        assert show(f"{FIRST}/guest_matrix") == "00.0000\n01.0000\n"

    run(body)


def test_open_needs_a_vm_and_only_one_device_of_it(run):
    def body():
        create(FIRST, SECOND)
        plain = VfioUser()
        assert refusal(plain.open_through_cdev, 1) == EINVAL
        guest = Guest()
        first = guest.open_cdev(1)
        assert refusal(guest.open_cdev, 2) == EPERM
        guest.let_go(first)
        guest.open_cdev(2)
        guest.exit()

    run(body)


def test_a_guest_follows_what_is_assigned(run):
    def body():
        create(FIRST)
        assign(FIRST, "1", "0")
        guest = Guest()
        device = guest.open_cdev(1)
        matrix_mdev = matrix_dev().mdev_list[0]
        changed = guest.eventfd()
        guest.set_eventfds(device, CONFIG_CHANGED, changed)
        assert matrix_mdev.guest_apcb.queues() == [(1, 0)]
        assign(FIRST, "2")
        assert guest.eventfd_read(changed) == 1
        assert matrix_mdev.guest_apcb.queues() == [(1, 0), (2, 0)]
        store(f"{FIRST}/unassign_adapter", "1")
        assert matrix_mdev.guest_apcb.queues() == [(2, 0)]
        assert [matrix_dev().queues[apid, 0].resets for apid in (1, 2)] == [1, 0]
        guest.let_go(device)
        assert matrix_mdev.guest_apcb.queues() == []
        assert [matrix_dev().queues[apid, 0].resets for apid in (1, 2)] == [1, 1]

    run(body)


def test_ioctls_of_a_device(run):
    def body():
        create(FIRST)
        assign(FIRST, "1", "01")
        guest = Guest()
        device = guest.open_cdev(1)
        info = guest.call(device, uapi.VFIO_DEVICE_GET_INFO, struct.pack("<4I", 16, 0, 9, 0))
        assert struct.unpack("<4I", info) == (16, 1 << 5 | 1, 0, 2)
        assert refusal(guest.call, device, uapi.VFIO_DEVICE_GET_INFO, struct.pack("<4I", 15, 0, 0, 0)) == EINVAL
        irq = guest.call(device, uapi.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<4I", 16, 0, CONFIG_CHANGED, 0))
        assert struct.unpack("<4I", irq) == (16, uapi.VFIO_IRQ_INFO_EVENTFD, CONFIG_CHANGED, 1)
        assert refusal(guest.call, device, uapi.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<4I", 16, 0, 2, 0)) == EINVAL
        assert refusal(guest.set_eventfds, device, 2, -1) == EINVAL
        assert refusal(guest.set_eventfds, device, REQUEST, -2) == EINVAL
        assert refusal(guest.set_irqs, device, uapi.VFIO_IRQ_SET_DATA_NONE | 32, REQUEST, 0, 0) == EINVAL
        guest.set_eventfds(device, REQUEST, guest.eventfd())
        guest.set_eventfds(device, REQUEST, -1)
        assert matrix_dev().mdev_list[0].req_trigger is None
        guest.ioctl(device, uapi.VFIO_DEVICE_RESET)
        assert [matrix_dev().queues[1, apqi].resets for apqi in (0, 1, 2)] == [1, 1, 0]
        assert refusal(guest.ioctl, device, 0x3B00) == ENOTTY

    run(body)


def test_removal_asks_the_guest_and_waits_for_it(run):
    def body():
        create(FIRST)
        guest = Guest()
        device = guest.open_cdev(1)
        wanted = guest.eventfd()
        guest.set_eventfds(device, REQUEST, wanted)
        remove = node(f"{FIRST}/remove")
        task = current().runtime.spawn(lambda: kernfs_write(remove, b"1"), "remove")
        ctx = guest.files.eventfd(wanted)
        wait_until(lambda: ctx.count > 0)
        assert not task.done
        guest.let_go(device)
        wait_until(lambda: task.done)
        assert kernfs_find(f"{PARENT}/{FIRST}") is None

    run(body)


def test_removal_gives_the_queues_back(run):
    def body():
        create(FIRST, SECOND)
        assign(FIRST, "1", "0")
        assert assign(SECOND, "1", "0") == [0, EADDRINUSE]
        assert store(f"{FIRST}/remove", "1") == 0
        assert matrix_dev().queues[1, 0].resets == 1
        assert matrix_dev().queues[1, 0].matrix_mdev is None
        assert assign(SECOND, domains="0") == [0]
        unplug("vfio_ap")
        assert matrix_dev().queues == {}
        assert kernfs_find(PARENT) is None

    run(body)


def test_locks_are_taken_in_the_order_of_linux(run, monkeypatch):
    seen: list[list[str]] = []

    def body():
        create(FIRST)
        guest = Guest()
        monkeypatch.setattr(
            "uvfio.linux.s390.vfio_ap_queue.vfio_ap_mdev_update_guest_apcb",
            lambda _mdev: seen.append([lock.name for lock in current().held]),
        )
        guest.open_cdev(1)
        assign(FIRST, "1")

    run(body)
    locks = ["matrix_dev.guests_lock", "kvm.lock", "matrix_dev.mdevs_lock"]
    assert [held[-3:] for held in seen] == [locks, locks]
    assert "ap_perms_mutex" in seen[1]


@pytest.mark.parametrize("name", ["G1-ap", "K6-ap", "P14", "P16", "P17", "P18"])
def test_its_bugs_are_found_in_no_time(name):
    checked = check(catalogue()[name])
    assert not checked.wrong, checked.wrong
    assert checked.with_bug is not None
    assert checked.with_bug.seconds < 1


SCRIPT = f"""
cd /sys/class/mdev_bus/vfio_ap
echo {FIRST} > mdev_supported_types/vfio_ap-passthrough/create
cd {FIRST}
echo 1 > assign_adapter
echo 0x2 > assign_domain
cat matrix guest_matrix
(echo 99 > assign_domain) 2> /dev/null || echo refused
cd ..
echo 1 > {FIRST}/remove
test -e {FIRST} || echo gone
"""


@pytest.mark.live
def test_a_script_gives_a_device_its_queues() -> None:
    done = uvfio_run(["sh", "-c", SCRIPT], devices=("vfio_ap",))
    assert (done.stdout, done.stderr, done.returncode) == ("01.0002\n01.0002\nrefused\ngone\n", "", 0)


CLIENT = """
import ctypes, errno, fcntl, os, struct, sys
first, second = sys.argv[1:]
parent = "/sys/class/mdev_bus/vfio_ap/"
def store(path, text):
    with open(parent + path, "w") as file:
        file.write(text)
def show(path):
    with open(parent + path) as file:
        return file.read().split()
def fails(what, *args):
    try: what(*args)
    except OSError as e: return errno.errorcode[e.errno]
    return "OK"
def vfio(fd, number, fmt, *values):
    answer = bytearray(struct.pack(fmt, struct.calcsize(fmt), *values))
    fcntl.ioctl(fd, 0x3B64 + number, answer)
    return struct.unpack(fmt, answer)[1:]
def bind(fd):
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    try: return vfio(fd, 18, "<IIiI", 0, iommufd, 0)
    finally: os.close(iommufd)

for uuid in (first, second):
    store("mdev_supported_types/vfio_ap-passthrough/create", uuid)
store(f"{first}/assign_adapter", "1")
store(f"{first}/assign_domain", "0")
cdevs = [os.open(f"/dev/vfio/devices/vfio{n}", os.O_RDWR) for n in (0, 1)]
print("without a VM:", fails(bind, cdevs[0]))

kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, 0xAE01, 0)
files = struct.unpack("3I", fcntl.ioctl(vm, 0xC00CAEE0, struct.pack("3I", 4, 0, 0)))[1]
def file(fd, attr):
    value = ctypes.c_int32(fd)
    fcntl.ioctl(files, 0x4018AEE1, struct.pack("IIQQ", 0, 1, attr, ctypes.addressof(value)))
for cdev in cdevs:
    file(cdev, 1)
print("with one:", fails(bind, cdevs[0]), "and for its second device:", fails(bind, cdevs[1]))

flags, regions, irqs, *_ = vfio(cdevs[0], 7, "<6I", 0, 0, 0, 0, 0)
print("info:", hex(flags), regions, irqs, [vfio(cdevs[0], 9, "<4I", 0, n, 0)[::2] for n in range(2)])
changed = os.eventfd(0, os.EFD_NONBLOCK)
vfio(cdevs[0], 10, "<5Ii", 0x24, 1, 0, 1, changed)
store(f"{first}/assign_adapter", "2")
print("assigned:", *show(f"{first}/guest_matrix"), "told:", os.eventfd_read(changed))
store(f"{first}/unassign_adapter", "1")
print("taken back:", *show(f"{first}/guest_matrix"), "told:", os.eventfd_read(changed))
print("reset:", fails(fcntl.ioctl, cdevs[0], 0x3B64 + 11, 0), "read:", fails(os.pread, cdevs[0], 4, 0))
for cdev in cdevs:
    file(cdev, 2)  # kvm-vfio holds the file: the device would stay open, and its removal wait
    os.close(cdev)
print("closed:", *show(f"{first}/matrix"))
for uuid in (first, second):
    store(f"{uuid}/remove", "1")
print("removed:", [n for n in (0, 1) if os.path.exists(f"/dev/vfio/devices/vfio{n}")])
"""

SAID = """\
without a VM: EINVAL
with one: OK and for its second device: EPERM
info: 0x21 0 2 [(1, 1), (1, 1)]
assigned: 01.0000 02.0000 told: 1
taken back: 02.0000 told: 1
reset: OK read: EINVAL
closed: 02.0000
removed: []
"""


@pytest.mark.live
def test_a_program_opens_a_device_for_its_virtual_machine() -> None:
    done = uvfio_run([sys.executable, "-c", CLIENT, FIRST, SECOND], devices=("vfio_ap",))
    assert (done.stdout, done.stderr, done.returncode) == (SAID, "", 0)
