# SPDX-License-Identifier: GPL-2.0-only
"""
The host's own VMs, of which we add the kvm-vfio device.

Where the host has a usable /dev/kvm clients open that one, and nothing of it is touched,
KVM_RUN above all, but KVM_CREATE_DEVICE of type KVM_DEV_TYPE_VFIO on a VM: the modelled
kernel answers it with a device of its own, for a modelled VM that stands for the host's.
As long as that has a reference (a kvm-vfio file, an open VFIO device), we keep a copy of
the VM's fd, so that the host's VM lives as long as it would in Linux.

Differences from Linux: the process that a VM belongs to is the first that makes such a
device; the host's KVM does not hear whether DMA is coherent.
"""

from __future__ import annotations

import fcntl
import os

from uvfio.linux.kernel.fs import File
from uvfio.linux.kvm.main import KvmVmFops, kvm_create_vm, kvm_get_kvm_safe, kvm_put_kvm
from uvfio.linux.kvm.private import Kvm
from uvfio.live import host
from uvfio.live.client import VM_LINK, LiveThread
from uvfio.live.files import OpenFile
from uvfio.runtime.errors import Errno
from uvfio.uapi.kvm import (
    KVM_API_VERSION,
    KVM_CREATE_DEVICE,
    KVM_CREATE_VM,
    KVM_DEV_TYPE_VFIO,
    KVM_GET_API_VERSION,
)

DEV_KVM = "/dev/kvm"


def host_has_kvm() -> bool:
    """Can a client make VMs with the host's /dev/kvm?"""
    try:
        kvm = os.open(DEV_KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION:
            return False
        os.close(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(kvm)
    return True


class HostVms:
    """The host's VMs that have a modelled one now."""

    def __init__(self) -> None:
        self.known: list[tuple[Kvm, int]] = []  # and a copy of the fd of the host's

    def file_of(self, thread: LiveThread, args: tuple[int, ...]) -> File | None:
        """The VM, as a file of ours, if the ioctl *args* on a file of the host is for us."""
        fd, cmd, arg = args[0] & 0xFFFFFFFF, args[1] & 0xFFFFFFFF, args[2]
        if cmd != KVM_CREATE_DEVICE:
            return None
        try:
            if os.readlink(str(fd), dir_fd=thread.fd_dir) != VM_LINK:
                return None
            if int.from_bytes(thread.mm.read(arg, 4), "little") != KVM_DEV_TYPE_VFIO:
                return None
            ours = host.pidfd_getfd(thread.client.pidfd, fd)
        except (OSError, Errno):
            return None  # the host knows what to say of it
        file = File(HostVmFops(self), ours)
        file.host = OpenFile(VM_LINK, 0, 0, None)
        return file

    def get(self, ours: int) -> Kvm:
        """The modelled VM, referenced, for the host's VM *ours*, which is an fd to keep or to close."""
        for kvm, fd in self.known:
            if host.same_file(fd, ours) and kvm_get_kvm_safe(kvm):
                os.close(ours)
                return kvm
        kvm = kvm_create_vm()
        known = (kvm, ours)
        self.known.append(known)
        kvm.destroyed = lambda: self._forget(known)
        return kvm

    def _forget(self, known: tuple[Kvm, int]) -> None:
        self.known = [each for each in self.known if each is not known]
        os.close(known[1])


class HostVmFops(KvmVmFops):
    """Of one call on a VM of the host; ``private_data`` is our copy of its fd."""

    def __init__(self, vms: HostVms) -> None:
        self.vms = vms

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        kvm = file.private_data = self.vms.get(file.private_data)
        try:
            return super().unlocked_ioctl(file, cmd, arg)
        finally:
            kvm_put_kvm(kvm)
