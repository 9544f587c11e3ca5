# SPDX-License-Identifier: GPL-2.0-only
"""How files are named to people."""

from __future__ import annotations

from pathlib import PurePath

PACKAGE = PurePath(__file__).parent.parent


def shown_path(path: str) -> str:
    """``linux/vfio/group.py`` for a file of the package, the last part for any other."""
    file = PurePath(path)
    return str(file.relative_to(PACKAGE)) if file.is_relative_to(PACKAGE) else file.name
