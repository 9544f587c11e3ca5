# SPDX-License-Identifier: GPL-2.0-only
"""
Module parameters: /sys/module/MODULE/parameters/NAME. Mirrors ``kernel/params.c``.

The value stays where its module keeps it; a parameter is a getter and, if it may be
written, a setter. Difference from Linux: nothing is taken from a command line.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL

from uvfio.linux.base.sysfs import kstrtobool, kstrtoul, sysfs_dir
from uvfio.linux.kernel.kernfs import Attribute, kernfs_create_file
from uvfio.runtime.errors import Errno


def module_param_bool(
    module: str, name: str, get: Callable[[], bool], put: Callable[[bool], None] | None = None
) -> None:
    """A ``bool`` parameter, read as Y or N; mode 0644, or 0444 without *put*."""

    def store(data: bytes) -> None:
        assert put is not None
        put(kstrtobool(data))

    _create(module, name, lambda: "Y\n" if get() else "N\n", store if put is not None else None)


def module_param_uint(module: str, name: str, get: Callable[[], int], put: Callable[[int], None] | None = None) -> None:
    """A ``uint`` parameter."""

    def store(data: bytes) -> None:
        assert put is not None
        value = kstrtoul(data)
        if value >= 1 << 32:
            raise Errno(EINVAL, f"{name} must have 32 bits")
        put(value)

    _create(module, name, lambda: f"{get()}\n", store if put is not None else None)


def _create(module: str, name: str, show: Callable[[], str], store: Callable[[bytes], None] | None) -> None:
    above = sysfs_dir(f"module/{module}")
    if "initstate" not in above.children:
        kernfs_create_file(above, Attribute("initstate", 0o444, lambda: "live\n", None))
    directory = sysfs_dir(f"module/{module}/parameters")
    kernfs_create_file(directory, Attribute(name, 0o644 if store else 0o444, show, store))
