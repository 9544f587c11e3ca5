# SPDX-License-Identifier: GPL-2.0-only
"""
Modules and exported symbols. Mirrors ``kernel/module/main.c``.

Two rooms that must not import each other meet through :func:`symbol_get`, as VFIO
and KVM do in Linux: it answers None when the exporting module is not loaded. Calling
what a module exported after it was unloaded is a jump into freed text, and a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from uvfio.linux.kernel.refcount import Refcount
from uvfio.runtime.errors import Splat
from uvfio.runtime.task import per_machine, running


class Module:
    """``struct module``: a reference count and the symbols it exports."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.refcnt = Refcount(f"module {name}")
        self.symbols: dict[str, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        return f"module {self.name}"


class Modules:
    """Every module loaded in one machine, by name."""

    def __init__(self) -> None:
        self.loaded: dict[str, Module] = {}


modules = per_machine(Modules)


def load_module(name: str) -> Module:
    """Load *name*, or answer the module if it is loaded."""
    return modules().loaded.setdefault(name, Module(name))


def unload_module(module: Module) -> bool:
    """``delete_module``: False while somebody holds a reference."""
    if not module.refcnt.dec_if_one():
        return False
    del modules().loaded[module.name]
    running().runtime.note("unload", module)
    return True


def try_module_get(module: Module | None) -> bool:
    return module is None or module.refcnt.inc_not_zero()


def module_put(module: Module | None) -> None:
    if module is not None:
        module.refcnt.dec()


def export_symbol(module: Module, function: Callable[..., Any]) -> None:
    @wraps(function)
    def in_module(*args: Any) -> Any:
        running().runtime.point("module_text", module, "r")
        if modules().loaded.get(module.name) is not module:
            raise Splat("use-after-free", f"call of {function.__name__}() in {module}, which was unloaded")
        return function(*args)

    module.symbols[function.__name__] = in_module


def symbol_get(name: str) -> Callable[..., Any] | None:
    """The function exported as *name*, its module pinned; None if there is none."""
    for module in modules().loaded.values():
        if name in module.symbols and module.refcnt.inc_not_zero():
            return module.symbols[name]
    return None


def symbol_put(name: str) -> None:
    for module in modules().loaded.values():
        if name in module.symbols:
            module_put(module)
            return
    raise Splat("bug", f"symbol_put of {name}, which no module exports")
