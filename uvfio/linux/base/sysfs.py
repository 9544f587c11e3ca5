# SPDX-License-Identifier: GPL-2.0-only
"""
What the rooms use of sysfs. Mirrors ``fs/sysfs/{group,symlink,file}.c`` and, for the
fixed directories, ``fs/sysfs/mount.c`` and ``drivers/base/init.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from errno import EINVAL

from uvfio.linux.base.private import AnyAttribute
from uvfio.linux.kernel.kernfs import (
    KernfsNode,
    kernfs_create_dir,
    kernfs_create_file,
    kernfs_create_link,
    kernfs_remove_by_name,
    kernfs_root,
)
from uvfio.runtime.errors import Errno

UUID = "-".join(f"[0-9A-Fa-f]{{{n}}}" for n in (8, 4, 4, 4, 12))
UEVENT = re.compile(rf"(add|remove|change|move|online|offline|bind|unbind)( {UUID}( [A-Za-z0-9]+=[A-Za-z0-9]+)*)?")


def sysfs_dir(path: str) -> KernfsNode:
    """The directory at *path* below /sys (``devices/virtual``), made where missing."""
    node = kernfs_root().root
    for name in path.split("/"):
        node = node.children.get(name) or kernfs_create_dir(node, name)
    return node


def sysfs_create_files(kobj: KernfsNode, attrs: Iterable[AnyAttribute]) -> None:
    for attr in attrs:
        kernfs_create_file(kobj, attr)


def sysfs_remove_files(kobj: KernfsNode, attrs: Iterable[AnyAttribute]) -> None:
    for attr in attrs:
        kernfs_remove_by_name(kobj, attr.name)


def sysfs_create_link(kobj: KernfsNode, target: KernfsNode, name: str) -> None:
    """Errno EEXIST if there is something called *name*."""
    kernfs_create_link(kobj, name, target)


def sysfs_remove_link(kobj: KernfsNode, name: str) -> None:
    kernfs_remove_by_name(kobj, name)


def sysfs_text(data: bytes) -> str:
    """What was written, as ``sysfs_streq()`` compares it: without one final newline."""
    return data.decode("latin-1").removesuffix("\n")


def kstrtoul(data: bytes, base: int = 0) -> int:
    """An unsigned number with an optional final newline. Errno EINVAL."""
    text = sysfs_text(data)
    digits = text.removeprefix("+")
    if base == 0 and len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX":
        base = 8
    if not digits or not digits.isascii() or not digits.isalnum():
        raise Errno(EINVAL, f"{text!r} must be a number")
    try:
        return int(digits, base)
    except ValueError:
        raise Errno(EINVAL, f"{text!r} must be a number") from None


def kstrtoint(data: bytes) -> int:
    """The same for a number that may be negative."""
    if data[:1] == b"-":
        return -kstrtoul(data[1:])
    return kstrtoul(data)


def uevent_store(data: bytes) -> None:
    """A write to ``uevent``. Errno EINVAL unless it is ACTION [UUID [KEY=VALUE...]]; nothing is sent."""
    if not UEVENT.fullmatch(sysfs_text(data)):
        raise Errno(EINVAL, f"{data!r} must be ACTION [UUID [KEY=VALUE...]]")


def kstrtobool(data: bytes) -> bool:
    """As ``kstrtobool()``: the first letter decides. Errno EINVAL."""
    text = data[:2].decode("latin-1").lower()
    if text[:1] in ("y", "t", "1") or text == "on":
        return True
    if text[:1] in ("n", "f", "0") or text == "of":
        return False
    raise Errno(EINVAL, f"{data!r} must be a boolean")
