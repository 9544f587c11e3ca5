# SPDX-License-Identifier: GPL-2.0-only
"""
Structures whose shared fields are watched, and memory that is freed once.

A structure declares the fields that more than one task touches::

    @kstruct("container", "opened_file")
    class VfioGroup: ...

    group = kzalloc(VfioGroup, iommu_group)

Under the live runtime those are plain attributes and cost nothing. Under an
observing runtime :func:`kzalloc` makes an instance of a subclass in which every
access to them is a point. :func:`kfree` poisons: any later access is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from greenlet import getcurrent

from uvfio.runtime.errors import Splat
from uvfio.runtime.task import Task, running

T = TypeVar("T")


def kstruct(*shared: str, racy: Sequence[str] = ()) -> Callable[[type[T]], type[T]]:
    """
    Class decorator: *shared* fields are points when observed. No ``__slots__``.

    *racy* fields too, but these are meant to be accessed without a lock (Linux has
    ``READ_ONCE`` or ``data_race()`` there), so it is no finding that they are.
    """

    def decorate(cls: type[T]) -> type[T]:
        names = {*getattr(cls, "__shared__", ()), *shared, *racy}
        if cls.__repr__ is object.__repr__:
            setattr(cls, "__repr__", _name)
        setattr(cls, "__shared__", names)
        setattr(cls, "__racy__", frozenset({*getattr(cls, "__racy__", ()), *racy}))
        setattr(cls, "__observed__", type(cls.__name__, (cls,), {name: _watched(name) for name in sorted(names)}))
        setattr(cls, "__freed__", type(cls.__name__, (cls, _Freed), {"__getattribute__": _Freed.touch}))
        return cls

    return decorate


def _name(made: object) -> str:
    """Without the address, so that a finding reads the same in every run."""
    return f"<{type(made).__name__}>"


def kzalloc(cls: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Allocate a structure (a class made by :func:`kstruct`) and initialise it."""
    runtime = running().runtime
    made = cls(*args, **kwargs)
    if runtime.observed:  # only now: nobody else can see what the constructor does
        object.__setattr__(made, "__class__", getattr(cls, "__observed__"))
    if runtime.listeners:
        runtime.note("alloc", made)
    return made


class Embedded:
    """Base of primitives that live inside a structure, and are freed with it."""

    __slots__ = ()


def kfree(obj: Any) -> None:
    """Free *obj*: whoever touches it afterwards is reported. None is allowed."""
    if obj is None:
        return
    if isinstance(obj, _Freed):
        raise Splat("double-free", f"{type(obj).__name__} is freed twice")
    runtime = running().runtime
    if runtime.schedules:
        runtime.point("free", obj)
    if runtime.listeners:
        # The locks and counters inside go with it: whoever is about to use one must be
        # seen to come before or after.
        for part in vars(obj).values():
            if isinstance(part, Embedded):
                runtime.note("free_part", part)
    object.__setattr__(obj, "__class__", type(obj).__freed__)


def read_once(obj: Any, name: str) -> Any:
    """
    Read a shared field without a lock on purpose: no data race, whatever becomes of it.

    For the one place; a field that is always accessed so is ``racy``.
    """
    if name in getattr(type(obj), "__shared__", ()) and running().runtime.observed:
        _touch(obj, "read_once", "r", name)
        return obj.__dict__[name]
    return getattr(obj, name)


def is_freed(obj: Any) -> bool:
    """Has *obj* been freed? For checkers; kernel code cannot know."""
    return issubclass(type(obj), _Freed)


class _Freed:
    """What an object becomes when it is freed."""

    def touch(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raise Splat("use-after-free", f"read of {type(self).__name__}.{name} after it was freed")

    def __setattr__(self, name: str, value: Any) -> None:
        raise Splat("use-after-free", f"write to {type(self).__name__}.{name} after it was freed")

    def __repr__(self) -> str:
        return f"<freed {type(self).__name__}>"


def _watched(name: str) -> property:
    def read(self: Any) -> Any:
        _touch(self, "read", "r", name)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(name) from None

    def write(self: Any, value: Any) -> None:
        _touch(self, "write", "w", name)
        self.__dict__[name] = value

    return property(read, write)


def _touch(obj: Any, kind: str, mode: str, name: str) -> None:
    task = getcurrent()
    if isinstance(task, Task):  # a report or a policy may look without being seen
        task.runtime.point(kind, obj, mode, field=name)
        if is_freed(obj):  # freed while this task was about to touch it
            raise Splat("use-after-free", f"{kind} of {type(obj).__name__}.{name} after it was freed")
