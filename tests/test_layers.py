# SPDX-License-Identifier: GPL-2.0-only
"""Imports point one way, every file says its licence, and no module keeps state."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "uvfio"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import from these, and from itself.
ALLOWED = {
    "runtime": set(),
    "uapi": {"runtime"},
    "linux": {"runtime", "uapi"},
    "devices": {"linux", "runtime", "uapi"},
    "topology": {"devices"},
    "machine": {"topology", "devices", "linux", "runtime", "uapi"},
    "explore": {"runtime"},
    "check": {"runtime"},
    "scenarios": {"machine", "explore", "check", "linux", "devices", "runtime", "uapi"},
    "bugs": {"scenarios", "explore", "check", "runtime"},
    "report": {"explore", "runtime"},
    "live": {"machine", "topology", "devices", "linux", "runtime", "uapi"},
    "serve": {"live", "machine", "linux", "runtime", "uapi"},
    "cli": {
        "serve",
        "live",
        "bugs",
        "report",
        "scenarios",
        "explore",
        "check",
        "machine",
        "topology",
        "devices",
        "linux",
        "runtime",
        "uapi",
    },
    "__main__": {"cli"},
    "__init__": {"explore", "machine", "runtime", "scenarios"},
    "pytest_plugin": {"explore", "report", "scenarios"},
}
# Rooms below linux/: kernel is under all; vfio and kvm never import each other.
LINUX = {
    "kernel": {"base"},  # user.py opens device nodes
    "base": {"kernel"},
    "iommu": {"kernel", "base"},
    "iommufd": {"kernel", "base", "iommu"},
    "mdev": {"kernel", "base"},
    "s390": {"kernel", "base", "iommu", "kvm", "mdev", "vfio"},
    "kvm": {"kernel", "base", "iommu"},
    "vfio": {"kernel", "base", "iommu", "iommufd"},
}


def room_of(path: Path) -> list[str]:
    return list(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[list[str]]:
    """The uvfio modules that *path* imports, split at the dots, without ``uvfio``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "uvfio":
            parts = node.module.split(".")[1:]
            yield from ([*parts, alias.name] for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("uvfio."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(room_of(p)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    for target in imports(path):
        if target[0] != room[0]:
            assert target[0] in ALLOWED[room[0]], f"{path.name} must not import uvfio.{'.'.join(target)}"
        elif room[0] == "linux" and len(room) > 2 and len(target) > 1 and target[1] != room[1]:
            assert target[1] in LINUX[room[1]], f"linux/{room[1]} must not import linux/{target[1]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(room_of(p)))
def test_no_lazy_import_and_a_licence(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# SPDX-License-Identifier: GPL-2.0-only\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lazy = [n.lineno for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not lazy, f"line {lazy}: a patched copy of the module would reach the unpatched one"


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(room_of(p)))
def test_no_mutable_state_in_modules(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        assert not any(isinstance(n, ast.Global) for n in ast.walk(node)), "a global statement is state"
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.List | ast.Dict | ast.Set):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            where = f"{names} in line {node.lineno}"
            assert all(name.upper() == name for name in names), f"{where} must be a constant, or belong to the Machine"
