# SPDX-License-Identifier: GPL-2.0-only
"""
The AP matrix of a mainframe as a parent. Mirrors ``drivers/s390/crypto/vfio_ap_drv.c``.

Differences from Linux: the parent is ``/sys/devices/virtual/vfio_ap/vfio_ap``, as those of
the samples are, not ``/sys/devices/vfio_ap/matrix``; there is no AP bus beside it.
"""

from __future__ import annotations

from uvfio.devices.mdev import MdevModel
from uvfio.linux.mdev.private import MdevDriver, MdevType
from uvfio.linux.s390 import vfio_ap

ADAPTERS = (0, 1, 2)
DOMAINS = (0, 1, 2, 3)


class VfioAp(MdevModel):
    """Three cryptographic adapters with four domains, to be divided among guests."""

    name = "vfio_ap"

    def make_driver(self) -> MdevDriver:
        return vfio_ap.VfioApDriver()

    def make_types(self) -> list[MdevType]:
        return [MdevType("passthrough", "VFIO AP Passthrough Device")]

    def init(self) -> None:
        super().init()
        vfio_ap.vfio_ap_init(ADAPTERS, DOMAINS)

    def exit_module(self) -> None:
        super().exit_module()
        vfio_ap.vfio_ap_exit()
