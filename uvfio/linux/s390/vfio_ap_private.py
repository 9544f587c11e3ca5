# SPDX-License-Identifier: GPL-2.0-only
"""
The structs and statics of vfio-ap. Mirrors ``drivers/s390/crypto/vfio_ap_private.h``.

A *queue* is an adapter and a domain of it (``apqn``); a mediated device is given adapters
and domains, and with them every queue where they cross. Lock order: ``ap_perms_mutex``,
``guests_lock``, ``kvm->lock`` of the guest, ``mdevs_lock``. Differences from Linux: masks
are sets of numbers; the table of a device's queues has a single bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.process import EventfdCtx
from uvfio.linux.kvm.private import Kvm
from uvfio.linux.mdev.private import MdevDevice
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import per_machine

APM_MAX = 63  # the highest number of an adapter, and of a domain, without APXA
AQM_MAX = 15


@dataclass
class ApMatrix:
    """``struct ap_matrix``."""

    apm: set[int] = field(default_factory=set)  # adapters
    aqm: set[int] = field(default_factory=set)  # domains to use
    adm: set[int] = field(default_factory=set)  # domains to control

    def queues(self) -> list[tuple[int, int]]:
        return [(apid, apqi) for apid in sorted(self.apm) for apqi in sorted(self.aqm)]


@kstruct("matrix_mdev", "next", "resets")
class VfioApQueue:
    """``struct vfio_ap_queue``: a queue of the host that is bound to vfio_ap."""

    def __init__(self, apqn: tuple[int, int]) -> None:
        self.apqn = apqn
        self.matrix_mdev: ApMatrixMdev | None = None  # mdevs_lock
        self.next: VfioApQueue | None = None  # mdevs_lock; in the table of matrix_mdev
        self.resets = 0  # mdevs_lock


@kstruct("kvm", "first_queue", "req_trigger", "cfg_chg_trigger")
class ApMatrixMdev:
    """``struct ap_matrix_mdev``: what belongs to one mediated device."""

    def __init__(self, mdev: MdevDevice) -> None:
        self.vdev: VfioDevice
        self.mdev = mdev
        self.matrix = ApMatrix()  # mdevs_lock; as assigned
        self.shadow_apcb = ApMatrix()  # mdevs_lock; what of that the host has
        self.guest_apcb = ApMatrix()  # guests_lock and mdevs_lock; what the guest may use
        self.kvm: Kvm | None = None  # written under guests_lock, kvm->lock and mdevs_lock; a reference
        self.first_queue: VfioApQueue | None = None  # mdevs_lock
        self.req_trigger: EventfdCtx | None = None  # mdevs_lock
        self.cfg_chg_trigger: EventfdCtx | None = None  # mdevs_lock


class ApMatrixDev:
    """``struct ap_matrix_dev``, of which there is one."""

    def __init__(self) -> None:
        self.ap_perms_mutex = Mutex("ap_perms_mutex")
        self.guests_lock = Mutex("matrix_dev.guests_lock")
        self.mdevs_lock = Mutex("matrix_dev.mdevs_lock")
        self.mdev_list: list[ApMatrixMdev] = []  # mdevs_lock
        self.queues: dict[tuple[int, int], VfioApQueue] = {}  # constant while the module is loaded
        self.host = ApMatrix()  # constant too
        self.default_apm: set[int] = set()  # ap_perms_mutex; kept for the host's own drivers, where they cross
        self.default_aqm: set[int] = set()  # ap_perms_mutex


matrix_dev = per_machine(ApMatrixDev)


@contextmanager
def update_locks_for_kvm(kvm: Kvm) -> Iterator[None]:
    """What it takes to change the crypto masks of the guest *kvm*."""
    dev = matrix_dev()
    with dev.guests_lock, kvm.lock, dev.mdevs_lock:
        yield


@contextmanager
def update_locks_for_mdev(matrix_mdev: ApMatrixMdev) -> Iterator[None]:
    """The same for the guest of *matrix_mdev*, if it has one, which guests_lock decides."""
    dev = matrix_dev()
    with dev.guests_lock:
        kvm = matrix_mdev.kvm
        if kvm is not None:
            with kvm.lock, dev.mdevs_lock:
                yield
        else:
            with dev.mdevs_lock:
                yield
