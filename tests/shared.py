# SPDX-License-Identifier: GPL-2.0-only
"""
What lies beside the checkout in CI and not at a user's: the reference kernel and its
recorded probes. Without it tests skip loudly; where it must be, that is a failure.
"""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def need(*names: str) -> Path:
    """The directory with the reference material *names*; skips if a user has none."""
    missing = [name for name in names if not (SHARED / name).exists()]
    if not missing:
        return SHARED
    reason = f"needs ../shared/{missing[0]}: the reference kernel's material is not beside this checkout"
    if os.environ.get("UVFIO_REQUIRE_SHARED"):
        pytest.fail(f"must not be skipped here: {reason}")
    pytest.skip(reason)


def need_program(name: str, package: str) -> str:
    """The path of a program; skips, saying what to install."""
    found = shutil.which(name)
    if found is not None:
        return found
    reason = f"needs {name} (Debian: apt-get install {package})"
    if os.environ.get("UVFIO_REQUIRE_SHARED"):
        pytest.fail(f"must not be skipped here: {reason}")
    pytest.skip(reason)


def need_module(name: str, package: str) -> ModuleType:
    """A module from PyPI; skips, saying what to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        reason = f"needs {package} (PyPI: pip install {package})"
    if os.environ.get("UVFIO_REQUIRE_SHARED"):
        pytest.fail(f"must not be skipped here: {reason}")
    pytest.skip(reason)
