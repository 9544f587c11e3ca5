# SPDX-License-Identifier: GPL-2.0-only
"""
A zPCI function that is passed to a virtual machine. Mirrors ``arch/s390/kvm/pci.c``.

The function must be disabled to tell the hardware that a guest interprets its
instructions, which loses the root of its translation: it is registered again, whichever
domain the function is on by then. Differences from Linux: neither the list of functions
that a virtual machine keeps nor its interrupt forwarding is modelled.
"""

from __future__ import annotations

from errno import EINVAL
from typing import Any

from uvfio.linux.iommu.zpci_insn import ZpciDev, zdev_enabled
from uvfio.linux.s390 import zpci
from uvfio.runtime.errors import Errno


def kvm_s390_pci_register_kvm(zdev: ZpciDev, kvm: Any) -> None:
    """Give the function to *kvm*. Errno EINVAL if it has one, EIO when it does not come back."""
    with zdev.kzdev_lock:
        if zdev.kzdev is not None or kvm is None:
            raise Errno(EINVAL)
        _disable_and_enable(zdev)
        zdev.kzdev = kvm


def kvm_s390_pci_unregister_kvm(zdev: ZpciDev) -> None:
    """Take it back. Whether it comes back or not, the virtual machine has lost it."""
    with zdev.kzdev_lock:
        if zdev.kzdev is None:
            return
        zdev.kzdev = None
        try:
            _disable_and_enable(zdev)
        except Errno:
            return  # it has been pulled, and its removal is on the way


def _disable_and_enable(zdev: ZpciDev) -> None:
    if zdev_enabled(zdev):
        zpci.zpci_disable_device(zdev)
    zpci.zpci_reenable_device(zdev)
