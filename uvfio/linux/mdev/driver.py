# SPDX-License-Identifier: GPL-2.0-only
"""The bus of mediated devices. Mirrors ``drivers/vfio/mdev/mdev_driver.c``."""

from __future__ import annotations

from typing import Any

from uvfio.linux.base import bus
from uvfio.linux.base.private import BusType
from uvfio.linux.mdev.private import MdevDriver, mdev


class MdevBus(BusType):
    """``mdev_bus_type``."""

    def match(self, dev: Any, drv: Any) -> bool:
        """No driver matches by itself: the one of the parent is attached as a device is made."""
        return False


def mdev_bus_register() -> None:
    bus_type = mdev().bus_type = MdevBus("mdev")
    bus.bus_register(bus_type)


def mdev_register_driver(drv: MdevDriver) -> None:
    bus.driver_register(mdev().bus_type, drv)


def mdev_unregister_driver(drv: MdevDriver) -> None:
    bus.driver_unregister(drv)
