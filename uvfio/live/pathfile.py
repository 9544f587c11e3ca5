# SPDX-License-Identifier: GPL-2.0-only
"""
A place in our part of /sys or /dev that a client has opened with O_PATH.

Linux does not let such an fd be put into another process, so an empty file stands for a
link, an attribute or a device node; ``File.name`` is the path. Differences from Linux: it
can be read (it is empty), and F_GETFL does not say O_PATH.
"""

from __future__ import annotations

from uvfio.linux.kernel.fs import FileOperations


class PathOperations(FileOperations):
    """Refuses what needs an opened file."""

    name = "path"
