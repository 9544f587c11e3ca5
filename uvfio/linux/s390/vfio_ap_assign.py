# SPDX-License-Identifier: GPL-2.0-only
"""
Which adapters and domains a mediated device has: its attributes in sysfs.

Mirrors ``assign_adapter_store`` and its like in ``drivers/s390/crypto/vfio_ap_ops.c``.
Differences from Linux: there is no ``ap_config``, which sets all at once; the masks of the
host's own drivers are fields of the model, not files of the AP bus.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EADDRINUSE, EADDRNOTAVAIL, ENODEV
from functools import partial

from uvfio.linux.base.private import AnyAttribute
from uvfio.linux.base.sysfs import kstrtoul
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.linux.s390 import vfio_ap_queue
from uvfio.linux.s390.vfio_ap_private import APM_MAX, AQM_MAX, ApMatrix, ApMatrixMdev, matrix_dev, update_locks_for_mdev
from uvfio.runtime.errors import Errno

Apqns = Callable[[ApMatrixMdev, int], list[tuple[int, int]]]


def apqns_of_adapter(matrix_mdev: ApMatrixMdev, apid: int) -> list[tuple[int, int]]:
    return ApMatrix({apid}, matrix_mdev.matrix.aqm).queues()


def apqns_of_domain(matrix_mdev: ApMatrixMdev, apqi: int) -> list[tuple[int, int]]:
    return ApMatrix(matrix_mdev.matrix.apm, {apqi}).queues()


def assign_adapter_store(matrix_mdev: ApMatrixMdev, data: bytes) -> None:
    """Errno ENODEV, EADDRNOTAVAIL (the host's own), EADDRINUSE (of another device)."""
    _assign(matrix_mdev, kstrtoul(data), APM_MAX, matrix_mdev.matrix.apm, apqns_of_adapter)


def assign_domain_store(matrix_mdev: ApMatrixMdev, data: bytes) -> None:
    """As for an adapter."""
    _assign(matrix_mdev, kstrtoul(data), AQM_MAX, matrix_mdev.matrix.aqm, apqns_of_domain)


def unassign_adapter_store(matrix_mdev: ApMatrixMdev, data: bytes) -> None:
    """Errno ENODEV."""
    _unassign(matrix_mdev, kstrtoul(data), APM_MAX, matrix_mdev.matrix.apm, apqns_of_adapter)


def unassign_domain_store(matrix_mdev: ApMatrixMdev, data: bytes) -> None:
    """Errno ENODEV."""
    _unassign(matrix_mdev, kstrtoul(data), AQM_MAX, matrix_mdev.matrix.aqm, apqns_of_domain)


def assign_control_domain_store(matrix_mdev: ApMatrixMdev, data: bytes) -> None:
    """Errno ENODEV. A domain may be controlled by several."""
    _set_control_domain(matrix_mdev, kstrtoul(data), set.add)


def unassign_control_domain_store(matrix_mdev: ApMatrixMdev, data: bytes) -> None:
    """Errno ENODEV."""
    _set_control_domain(matrix_mdev, kstrtoul(data), set.discard)


def _assign(matrix_mdev: ApMatrixMdev, number: int, highest: int, mask: set[int], apqns: Apqns) -> None:
    with matrix_dev().ap_perms_mutex, update_locks_for_mdev(matrix_mdev):
        if number > highest:
            raise Errno(ENODEV)
        # Its queues are linked already, and linked twice they would be a ring.
        if number in mask:
            return
        mask.add(number)
        try:
            vfio_ap_mdev_validate_masks(matrix_mdev)
        except Errno:
            mask.remove(number)
            raise
        vfio_ap_queue.vfio_ap_mdev_link_queues(matrix_mdev, apqns(matrix_mdev, number))
        if vfio_ap_queue.vfio_ap_mdev_filter_matrix(matrix_mdev):
            vfio_ap_queue.vfio_ap_mdev_update_guest_apcb(matrix_mdev)


def _unassign(matrix_mdev: ApMatrixMdev, number: int, highest: int, mask: set[int], apqns: Apqns) -> None:
    with update_locks_for_mdev(matrix_mdev):
        if number > highest:
            raise Errno(ENODEV)
        if number not in mask:
            return
        mask.remove(number)
        unlinked = vfio_ap_queue.vfio_ap_mdev_unlink_queues(matrix_mdev, apqns(matrix_mdev, number))
        if vfio_ap_queue.vfio_ap_mdev_filter_matrix(matrix_mdev):
            vfio_ap_queue.vfio_ap_mdev_update_guest_apcb(matrix_mdev)
        # Only now: the guest must not use them again after the reset.
        vfio_ap_queue.vfio_ap_mdev_reset_queues(unlinked)


def _set_control_domain(matrix_mdev: ApMatrixMdev, number: int, change: Callable[[set[int], int], None]) -> None:
    with update_locks_for_mdev(matrix_mdev):
        if number > AQM_MAX:
            raise Errno(ENODEV)
        change(matrix_mdev.matrix.adm, number)
        if vfio_ap_queue.vfio_ap_mdev_filter_matrix(matrix_mdev):
            vfio_ap_queue.vfio_ap_mdev_update_guest_apcb(matrix_mdev)


def vfio_ap_mdev_validate_masks(matrix_mdev: ApMatrixMdev) -> None:
    """May the device have the queues that it would have?"""
    dev, wanted = matrix_dev(), matrix_mdev.matrix
    if wanted.apm & dev.default_apm and wanted.aqm & dev.default_aqm:
        raise Errno(EADDRNOTAVAIL)
    for other in dev.mdev_list:
        if other is not matrix_mdev and wanted.apm & other.matrix.apm and wanted.aqm & other.matrix.aqm:
            raise Errno(EADDRINUSE)


def matrix_show(matrix: Callable[[], ApMatrix]) -> str:
    """Queues, or what there is of them: ``05.0004``, ``05.``, ``.0004``."""
    with matrix_dev().mdevs_lock:
        found = matrix()
        lines = [f"{apid:02x}.{apqi:04x}\n" for apid, apqi in found.queues()]
        if not found.aqm:
            lines = [f"{apid:02x}.\n" for apid in sorted(found.apm)]
        elif not found.apm:
            lines = [f".{apqi:04x}\n" for apqi in sorted(found.aqm)]
    return "".join(lines)


def control_domains_show(matrix_mdev: ApMatrixMdev) -> str:
    with matrix_dev().mdevs_lock:
        return "".join(f"{number:04x}\n" for number in sorted(matrix_mdev.matrix.adm))


def vfio_ap_mdev_attrs(matrix_mdev: ApMatrixMdev) -> list[AnyAttribute]:
    stores = (
        assign_adapter_store,
        unassign_adapter_store,
        assign_domain_store,
        unassign_domain_store,
        assign_control_domain_store,
        unassign_control_domain_store,
    )
    names = [store.__name__.removesuffix("_store") for store in stores]
    return [
        *(Attribute(name, 0o200, store=partial(store, matrix_mdev)) for name, store in zip(names, stores, strict=True)),
        Attribute("control_domains", 0o444, partial(control_domains_show, matrix_mdev)),
        Attribute("matrix", 0o444, lambda: matrix_show(lambda: matrix_mdev.matrix)),
        Attribute("guest_matrix", 0o444, lambda: matrix_show(lambda: matrix_mdev.shadow_apcb)),
    ]
