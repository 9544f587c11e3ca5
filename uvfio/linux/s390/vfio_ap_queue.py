# SPDX-License-Identifier: GPL-2.0-only
"""
The queues of a mediated device, and what of them its guest sees.

Mirrors ``vfio_ap_mdev_link_*``, ``_unlink_*``, ``_reset_*`` and ``_filter_*`` of
``drivers/s390/crypto/vfio_ap_ops.c``. Differences from Linux: a reset is done at once and
always works; every queue of the host stays bound to vfio_ap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.s390.vfio_ap_private import ApMatrix, ApMatrixMdev, VfioApQueue, matrix_dev


def vfio_ap_mdev_for_each_queue(matrix_mdev: ApMatrixMdev) -> Iterator[VfioApQueue]:
    q = matrix_mdev.first_queue
    while q is not None:
        yield q
        q = q.next


def vfio_ap_mdev_link_queues(matrix_mdev: ApMatrixMdev, apqns: Iterable[tuple[int, int]]) -> None:
    """Those of *apqns* that the host has become the device's."""
    lockdep_assert_held(matrix_dev().mdevs_lock)
    for apqn in apqns:
        q = matrix_dev().queues.get(apqn)
        if q is not None:
            q.matrix_mdev = matrix_mdev
            q.next = matrix_mdev.first_queue
            matrix_mdev.first_queue = q


def vfio_ap_mdev_unlink_queues(matrix_mdev: ApMatrixMdev, apqns: Iterable[tuple[int, int]]) -> list[VfioApQueue]:
    """They are the device's no more; those that were."""
    lockdep_assert_held(matrix_dev().mdevs_lock)
    unlinked = []
    for apqn in apqns:
        q = matrix_dev().queues.get(apqn)
        if q is not None and q.matrix_mdev is matrix_mdev:
            hash_del(matrix_mdev, q)
            q.matrix_mdev = None
            unlinked.append(q)
    return unlinked


def hash_del(matrix_mdev: ApMatrixMdev, q: VfioApQueue) -> None:
    if matrix_mdev.first_queue is q:
        matrix_mdev.first_queue = q.next
        return
    for before in vfio_ap_mdev_for_each_queue(matrix_mdev):
        if before.next is q:
            before.next = q.next
            return


def vfio_ap_mdev_reset_queues(queues: Iterable[VfioApQueue]) -> None:
    """Forget what is in them: the next to use them is another guest."""
    lockdep_assert_held(matrix_dev().mdevs_lock)
    for q in queues:
        q.resets += 1


def vfio_ap_mdev_filter_matrix(matrix_mdev: ApMatrixMdev) -> bool:
    """Bring ``shadow_apcb`` up to date; did it change?"""
    lockdep_assert_held(matrix_dev().mdevs_lock)
    matrix, host = matrix_mdev.matrix, matrix_dev().host
    was = matrix_mdev.shadow_apcb
    matrix_mdev.shadow_apcb = ApMatrix(matrix.apm & host.apm, matrix.aqm & host.aqm, matrix.adm & host.adm)
    return matrix_mdev.shadow_apcb != was


def vfio_ap_mdev_update_guest_apcb(matrix_mdev: ApMatrixMdev) -> None:
    """Let the guest, if there is one, use what ``shadow_apcb`` says."""
    if matrix_mdev.kvm is None:
        return
    lockdep_assert_held(matrix_mdev.kvm.lock)
    set_guest_apcb(matrix_mdev, matrix_mdev.shadow_apcb)
    signal_guest_ap_cfg_changed(matrix_mdev)


def vfio_ap_mdev_clear_guest_apcb(matrix_mdev: ApMatrixMdev) -> None:
    """``kvm_arch_crypto_clear_masks()``."""
    set_guest_apcb(matrix_mdev, ApMatrix())


def set_guest_apcb(matrix_mdev: ApMatrixMdev, apcb: ApMatrix) -> None:
    lockdep_assert_held(matrix_dev().guests_lock)
    lockdep_assert_held(matrix_dev().mdevs_lock)
    matrix_mdev.guest_apcb = apcb


def signal_guest_ap_cfg_changed(matrix_mdev: ApMatrixMdev) -> None:
    if matrix_mdev.cfg_chg_trigger is not None:
        matrix_mdev.cfg_chg_trigger.signal()
