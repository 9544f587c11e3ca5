# SPDX-License-Identifier: GPL-2.0-only
"""KVM's VMs and the kvm-vfio device, call by call."""

from __future__ import annotations

import struct
from errno import EBADF, EBUSY, EEXIST, EFAULT, EINVAL, EIO, EMFILE, ENODEV, ENOENT, ENOTTY, ENXIO, EPERM, EWOULDBLOCK

import pytest
from vfio_user import PG, VfioUser, booted, refusal

from uvfio.linux.base import pci_probe
from uvfio.linux.kernel.module import modules
from uvfio.linux.kvm import main as kvm_main
from uvfio.linux.kvm.private import Kvm, statics
from uvfio.uapi import kvm as uapi

BAD = 8


class Vmm(VfioUser):
    """A process with a VM and its kvm-vfio device."""

    def __init__(self) -> None:
        super().__init__()
        self.chardev = self.open("/dev/kvm")
        self.vm = self.ioctl(self.chardev, uapi.KVM_CREATE_VM)
        self.kv = self.create_device()

    def create_device(self, kind: int = uapi.KVM_DEV_TYPE_VFIO, flags: int = 0) -> int:
        answer = self.call(self.vm, uapi.KVM_CREATE_DEVICE, struct.pack("<III", kind, 0x7777, flags))
        return struct.unpack("<III", answer)[1]

    def attr(self, attr: int, fd: int, group: int = 1, request: int = uapi.KVM_SET_DEVICE_ATTR) -> None:
        at = self.mm.mmap(PG)
        self.mm.write(at, struct.pack("<i", fd))
        self.call(self.kv, request, struct.pack("<IIQQ", 0, group, attr, at))

    def add(self, fd: int) -> None:
        self.attr(uapi.KVM_DEV_VFIO_FILE_ADD, fd)

    def delete(self, fd: int) -> None:
        self.attr(uapi.KVM_DEV_VFIO_FILE_DEL, fd)

    def kvm(self) -> Kvm:
        kvm: Kvm = self.files.get(self.vm).private_data
        return kvm


def vm_of_device(bdf: str = "0000:00:01.0"):
    return pci_probe.pci_host().found[bdf].driver_data.vdev.kvm


@pytest.fixture
def run():
    return booted("edu").run


def test_what_kvm_knows_of(run):
    def body():
        user = Vmm()
        assert user.ioctl(user.chardev, uapi.KVM_GET_API_VERSION) == 12
        assert refusal(user.ioctl, user.chardev, uapi.KVM_GET_API_VERSION, 1) == EINVAL
        assert user.ioctl(user.chardev, uapi.KVM_CHECK_EXTENSION, uapi.KVM_CAP_DEVICE_CTRL) == 1
        assert user.ioctl(user.vm, uapi.KVM_CHECK_EXTENSION, 1) == 0
        assert refusal(user.ioctl, user.chardev, uapi.KVM_CREATE_VM, 7) == EINVAL
        for fd in (user.chardev, user.vm, user.kv):
            assert refusal(user.ioctl, fd, 0xAE80) == ENOTTY

    run(body)


def test_create_device(run):
    def body():
        user = Vmm()
        assert refusal(user.ioctl, user.vm, uapi.KVM_CREATE_DEVICE, BAD) == EFAULT
        assert refusal(user.create_device, 999) == ENODEV
        assert refusal(user.create_device) == EBUSY
        assert user.create_device(flags=uapi.KVM_CREATE_DEVICE_TEST) == 0x7777
        user.close(user.kv)
        assert user.create_device(flags=0x80) == user.kv

    run(body)


def test_without_an_fd_there_is_no_device(run, monkeypatch):
    def body():
        user = Vmm()
        user.close(user.kv)
        monkeypatch.setattr("uvfio.linux.kernel.user.MAX_FDS", len(user.files.table))
        assert refusal(user.create_device) == EMFILE
        assert user.kvm().devices == []
        assert user.kvm().users_count.value == 1

    run(body)


def test_attributes_and_the_order_of_their_errors(run):
    def body():
        user = Vmm()
        group = user.open("/dev/vfio/1")
        set_attr = uapi.KVM_SET_DEVICE_ATTR
        assert refusal(user.ioctl, user.kv, set_attr, BAD) == EFAULT
        assert refusal(user.ioctl, user.kv, uapi.KVM_GET_DEVICE_ATTR, BAD) == EPERM
        for group_nr, attr in ((0, 1), (2, 1), (1, 9), (1, uapi.KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE)):
            assert refusal(user.call, user.kv, set_attr, struct.pack("<IIQQ", 0, group_nr, attr, BAD)) == ENXIO
            assert refusal(user.attr, attr, group, group_nr, uapi.KVM_HAS_DEVICE_ATTR) == ENXIO
        user.attr(uapi.KVM_DEV_VFIO_FILE_DEL, -1, request=uapi.KVM_HAS_DEVICE_ATTR)
        assert refusal(user.call, user.kv, set_attr, struct.pack("<IIQQ", 0, 1, 1, BAD)) == EFAULT
        assert refusal(user.add, 99) == EBADF
        assert refusal(user.add, user.vm) == EINVAL
        assert refusal(user.delete, group) == ENOENT
        user.add(group)
        assert refusal(user.add, user.dup(group)) == EEXIST
        assert user.kvm().noncoherent_dma_count == 1
        user.delete(user.dup(group))
        assert user.kvm().noncoherent_dma_count == user.kvm().assigned_device_count == 0

    run(body)


def test_only_the_process_of_the_vm_may_use_it(run):
    def body():
        user, other = Vmm(), VfioUser()
        other.files = user.files
        for fd, request in ((user.vm, uapi.KVM_CREATE_DEVICE), (user.kv, uapi.KVM_GET_DEVICE_ATTR)):
            assert refusal(other.ioctl, fd, request, BAD) == EIO

    run(body)


def test_what_is_added_stays_open(run):
    def body():
        user = Vmm()
        group = user.open("/dev/vfio/1")
        user.add(group)
        user.close(group)
        assert refusal(user.open, "/dev/vfio/1") == EBUSY
        user.close(user.kv)
        user.open("/dev/vfio/1")

    run(body)


def test_a_device_has_the_vm_of_its_group_from_first_open_to_last_close(run):
    def body():
        user = Vmm()
        kvm = user.kvm()
        _container, group, early = user.open_through_group()
        user.add(group)
        assert vm_of_device() is None
        again = user.get_device(group)
        assert vm_of_device() is None, "sampled by the first open only"
        user.close(early)
        user.close(again)
        late = user.get_device(group)
        assert vm_of_device() is kvm
        user.delete(group)
        user.close(user.kv)
        user.close(user.vm)
        assert statics().vm_list == [kvm], "the device keeps its VM"
        user.close(late)
        assert statics().vm_list == []
        assert vm_of_device() is None

    run(body)


def test_a_device_through_the_cdev(run):
    def body():
        user = Vmm()
        cdev, iommufd = user.open("/dev/vfio/devices/vfio0"), user.open("/dev/iommu")
        user.add(cdev)
        assert vm_of_device() is None
        user.bind(cdev, iommufd)
        assert vm_of_device() is user.kvm()
        user.close(user.kv)
        user.close(cdev)
        assert vm_of_device() is None

    run(body)


def test_a_module_in_use_is_not_unloaded(run):
    def body():
        user = Vmm()
        module = modules().loaded["kvm"]
        for fd in (user.chardev, user.vm, user.kv):
            assert refusal(kvm_main.kvm_exit) == EWOULDBLOCK
            user.close(fd)
        assert module.refcnt.value == 1
        kvm_main.kvm_exit()
        assert refusal(user.open, "/dev/kvm") == ENODEV

    run(body)


def test_without_kvm_a_group_opens_as_ever(run):
    def body():
        kvm_main.kvm_exit()
        VfioUser().open_through_group()
        assert vm_of_device() is None

    run(body)


def test_spapr_holds_the_iommu_group_until_the_file_is_deleted(run):
    def body():
        statics().spapr_tce_iommu = True
        user = Vmm()
        group = user.open("/dev/vfio/1")
        iommu_group = user.files.get(group).private_data.iommu_group

        def set_tce(fd: int) -> None:
            at = user.mm.mmap(8)
            user.mm.write(at, struct.pack("<ii", fd, -1))
            spapr = uapi.KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE
            user.call(user.kv, uapi.KVM_SET_DEVICE_ATTR, struct.pack("<IIQQ", 0, 1, spapr, at))

        assert refusal(set_tce, 99) == EBADF
        assert refusal(set_tce, group) == ENOENT
        user.add(group)
        references = iommu_group.kref.refcount.value
        set_tce(group)
        held = user.files.get(user.kv).private_data.private.file_list[0]
        assert held.iommu_group is iommu_group
        set_tce(group)
        assert iommu_group.kref.refcount.value == references + 1
        user.delete(group)
        assert iommu_group.kref.refcount.value == references

    run(body)
