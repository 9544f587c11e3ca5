# SPDX-License-Identifier: GPL-2.0-only
"""
What the objects of a run are called, and what their fields hold, for people.

Looking must not be seen: a field that is observed would be a point of its own, so
everything here reads an object's dictionary, or runs where no task is running.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenlet import greenlet

from uvfio.runtime.task import Task

LONGEST = 60  # characters of a value
FIRST = 3  # members of a collection that are named


class Names:
    """
    Numbers the objects of one run, in the order in which they turn up, and names them.

    Two objects that call themselves the same are told apart: ``group_lock`` and
    ``group_lock#2``.
    """

    def __init__(self) -> None:
        self.names: list[str] = []  # by number
        self._numbers: dict[int, int] = {}
        self._objects: list[Any] = []  # keeps them alive: an id must not be used again
        self._taken: dict[str, int] = {}

    def number(self, obj: Any) -> int:
        """The number of *obj* in this run."""
        found = self._numbers.get(id(obj))
        if found is None:
            found = self._numbers[id(obj)] = len(self._objects)
            self._objects.append(obj)
            name = _calls_itself(obj)
            self._taken[name] = n = self._taken.get(name, 0) + 1
            self.names.append(name if n == 1 else f"{name}#{n}")
        return found

    def name(self, obj: Any) -> str:
        return self.names[self.number(obj)]

    def field(self, obj: Any, field: str) -> str:
        """What *field* of a structure holds now; empty if it is not set yet."""
        values = object.__getattribute__(obj, "__dict__")
        return self.value(values[field]) if field in values else ""

    def state(self, obj: Any) -> str:
        """What a primitive counts, owns or has inside; empty if that says nothing."""
        if isinstance(obj, Task) or hasattr(type(obj), "__shared__"):
            return ""
        values = _values(obj)
        if "owner" in values and hasattr(type(obj), "unlock"):
            return f"held by {values['owner'].name}" if isinstance(values["owner"], Task) else "free"
        if "writer" in values and "readers" in values:
            return _rwsem(values)
        for key in ("value", "done", "entries"):
            if key in values:
                return self.value(values[key])
        return f"{len(values['readers'])} readers" if isinstance(values.get("readers"), list | set) else ""

    def value(self, value: Any) -> str:
        """*value* as C would show it; other objects by name."""
        if value is None:
            return "NULL"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(int(value)) if -4096 < value < 4096 else hex(value)
        if isinstance(value, str | float):
            return _short(repr(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return f"{len(value)} bytes"
        if isinstance(value, Mapping):
            shown = [f"{self._key(key)}: {self.value(value[key])}" for key in list(value)[:FIRST]]
            return self._members("{", shown, value, "}")
        if isinstance(value, list | tuple | set | frozenset):
            return self._members("[", [self.value(member) for member in list(value)[:FIRST]], value, "]")
        if callable(value) and hasattr(value, "__name__"):
            return f"{value.__name__}()"
        return self.name(value)

    def _key(self, key: Any) -> str:
        return key if isinstance(key, str) else self.value(key)

    @staticmethod
    def _members(left: str, shown: list[str], value: Any, right: str) -> str:
        more = len(value) - len(shown)
        return _short(left + ", ".join([*shown, *([f"{more} more"] if more else [])]) + right)


def _calls_itself(obj: Any) -> str:
    kind = type(obj)
    values = object.__getattribute__(obj, "__dict__") if hasattr(kind, "__dict__") and hasattr(obj, "__dict__") else {}
    if isinstance(obj, Task):
        return f"task {obj.name}"
    if hasattr(kind, "__shared__") or getattr(kind, "__repr__") is object.__repr__:
        return str(kind.__name__)
    if isinstance(values.get("name"), str) and "value" in values:
        return str(values["name"])  # a counter: its repr has the value too, which will change
    try:
        return _short(str(greenlet(repr).switch(obj)))  # in no task: unseen
    except Exception:  # a repr that fails on a half made or freed object is not worth the report
        return str(kind.__name__)


def _values(obj: Any) -> Mapping[str, Any]:
    """What *obj* has, in its dictionary or in the slots of one that there are many of."""
    slots = [name for kind in type(obj).__mro__ for name in getattr(kind, "__slots__", ())]
    return {**{name: getattr(obj, name) for name in slots if hasattr(obj, name)}, **getattr(obj, "__dict__", {})}


def _rwsem(values: Mapping[str, Any]) -> str:
    if isinstance(values["writer"], Task):
        return f"held by {values['writer'].name} for writing"
    readers = [task.name for task in values["readers"] if isinstance(task, Task)]
    return f"held by {', '.join(readers)} for reading" if readers else "free"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
