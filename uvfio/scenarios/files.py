# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios in somebody's own file: ``path/to/file.py::function``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from uvfio.scenarios.registry import Scenario


def load(name: str) -> Scenario:
    """The scenario that ``FILE.py::FUNCTION`` means. ValueError says what is wrong with it."""
    path, _colons, function = name.partition("::")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"the file of a scenario must exist, and {path} does not")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"the file of a scenario must be Python, not {path}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise ValueError(f"{path} must import without an error, not {type(e).__name__}: {e}") from e
    finally:
        sys.path.remove(str(file.parent))
    found = vars(module).get(function)
    if not isinstance(found, Scenario):
        have = ", ".join(key for key, value in vars(module).items() if isinstance(value, Scenario)) or "none"
        raise ValueError(f"{path} must have a scenario {function!r}; it has {have}")
    return found
