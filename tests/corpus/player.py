# SPDX-License-Identifier: GPL-2.0-only
"""
One call in, one answer out, on any :class:`~corpus.system.System`.

A call is a list whose first item names it. For an ioctl come the file it is made on
(where there are several), the values of its fields (but for the size) and, when it is
not the usual form, a dict:

``in`` bytes put at X before, in hex; ``out`` how many bytes of X to look at after it;
``size`` what to say in the size field; ``tail`` bytes behind the struct; ``at`` where
the struct lies (``null``, ``hole``, ``edge`` of a hole, ``ro`` memory); ``request``
another request number.

A value is a number, ``"S+4096"`` for an address in a buffer, ``"h3"`` for the number
of the third file that calls have made, or another file's name. Closed files have number
99999, which is never open. An answer is an errno's name or what the call returned; when
memory changed it is a pair of that and a dict: fields that differ now, ``X`` and
``tail`` when bytes there do.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from corpus.layout import Layout
from corpus.system import PAGE, Failed, System

CLOSED = 99_999
SHOWN = 64  # longer memory is kept as a checksum
BEHIND = 160  # bytes behind a struct that are watched


class Player:
    """
    Files and memory of one session. Those who inherit say which buffers there are (name:
    address, pages, kind), with A for arguments and X for what these point to, and have a
    method for each call that is no ioctl.
    """

    buffers: Mapping[str, tuple[int, int, str]]
    patterned = ""  # buffers that hold a pattern and are watched for changes
    layouts: Mapping[str, Layout]

    def __init__(self, system: System, files: dict[str, int], absent: str = "") -> None:
        self.system = system
        self.files = files
        self.views: dict[str, tuple[int, int]] = {}
        self.made = 0
        self.mapped: set[str] = set()
        for name in self.buffers:
            if name not in absent:
                self.map_buffer(name)

    def map_buffer(self, name: str) -> None:
        addr, pages, kind = self.buffers[name]
        fd = self.files["memfd" if name in self.patterned else "argument"] if kind == "file" else -1
        self.system.map_memory(addr, pages, kind, fd)
        self.mapped.add(name)
        if name in self.patterned:
            self.system.poke(addr, pattern(name, pages))

    def close(self) -> None:
        """End of the session: whatever is left goes."""
        for addr, length in self.views.values():
            self.system.unmap_file(addr, length)
        for fd in self.files.values():
            self.system.close(fd)
        for name in self.mapped:
            self.system.unmap_memory(*self.buffers[name][:2])

    def play(self, call: Sequence[Any]) -> Any:
        """Make *call*; its answer."""
        try:
            return self.make(*call)
        except Failed as failed:
            return str(failed)

    def make(self, name: str, *args: Any) -> Any:
        """Raises :class:`Failed`."""
        return getattr(self, f"_{name}")(*args)

    def fd(self, name: str) -> int:
        return self.files.get(name, CLOSED)

    def value(self, value: Any) -> int:
        if isinstance(value, int):
            return value
        buffer, plus, offset = value.partition("+")
        return self.buffers[buffer][0] + int(offset) if plus else self.fd(value)

    # ---- ioctls

    def ioctl(self, name: str, fd: str, values: Sequence[Any], how: Mapping[str, Any]) -> Any:
        layout = self.layouts[name]
        sent = [*layout.head(how.get("size")), *(self.value(v) for v in values)]
        data = layout.pack(sent) + bytes.fromhex(how.get("tail", ""))
        arg, where = self._place(data, how.get("at", ""))
        before = self._fill(how)
        ahead = self.system.next_fd()
        try:
            result: Any = self.system.ioctl(self.fd(fd), how.get("request", layout.request), arg)
        except Failed as failed:
            result = str(failed)
        extra: dict[str, Any] = {}
        if where:
            self._changes(layout, data, self.system.peek(where, len(data) + BEHIND), extra)
        if "request" not in how:
            if layout.new_fd and result == 0:
                # The caller may have put the very number there.
                extra.setdefault(layout.new_fd, sent[layout.names.index(layout.new_fd)])
            self._new_file(layout.new_fd, result, extra, ahead)
            result = self.returned(name, result, extra, ahead)
        after = self.system.peek(self.buffers["X"][0], len(before))
        if after != before:
            extra["X"] = shown(after)
        return [result, extra] if extra else result

    def returned(self, name: str, result: Any, extra: dict[str, Any], ahead: int) -> Any:
        """What the call *name* has returned, files by name; *ahead* is the number that a new one has."""
        return result

    def _place(self, data: bytes, at: str) -> tuple[int, int]:
        """Where the argument is, and where its memory can be looked at (0: nowhere)."""
        page = self.buffers["A"][0]
        if at == "null":
            return 0, 0
        if at == "hole":
            return page + 2 * PAGE, 0
        if at == "edge":
            cut = data[: len(data) // 2]
            self.system.poke(page + 2 * PAGE - len(cut), cut)
            return page + 2 * PAGE - len(cut), 0
        if at == "ro":
            self.system.poke(self.buffers["W"][0], data + bytes(BEHIND))
            return self.buffers["Q"][0], self.buffers["W"][0]
        self.system.poke(page, data + bytes(BEHIND))
        return page, page

    def _fill(self, how: Mapping[str, Any]) -> bytes:
        data = bytes.fromhex(how.get("in", ""))
        data = data.ljust(how.get("out", 0), b"\0")
        if data:
            self.system.poke(self.buffers["X"][0], data)
        return data

    def _changes(self, layout: Layout, sent: bytes, got: bytes, extra: dict[str, Any]) -> None:
        if got[: layout.size] != sent[: layout.size]:
            old, new = layout.unpack(sent[: layout.size]), layout.unpack(got[: layout.size])
            extra.update((name, b) for name, a, b in zip(layout.names, old, new, strict=True) if a != b)
        if got[layout.size :] != (sent[layout.size :] + bytes(BEHIND)):
            extra["tail"] = shown(got[layout.size :].rstrip(b"\0"))

    def _new_file(self, field: str, result: Any, extra: dict[str, Any], ahead: int) -> None:
        """Numbers of files differ from run to run: in answers they have names."""
        if field and field in extra and result == 0:
            extra[field] = self.new_file(extra[field])
        elif field and extra.get(field) == ahead:
            extra[field] = "unused"

    def new_file(self, fd: int) -> str:
        assert self.system.is_open(fd), f"fd {fd} must be open"
        self.made += 1
        self.files[f"h{self.made}"] = fd
        return f"h{self.made}"

    # ---- the other calls, by name

    def _raw(self, fd: str, request: int, arg: Any, head: str = "") -> Any:
        """Any request number; *head* is put at A first."""
        self.system.poke(self.buffers["A"][0], bytes.fromhex(head).ljust(BEHIND, b"\0"))
        return self.system.ioctl(self.fd(fd), request, self.value(arg))

    def _skip(self) -> Any:
        """In place of a call that made a file, when a session is shortened."""
        self.made += 1
        return 0

    def _close(self, name: str) -> Any:
        fd = self.files.pop(name, None)
        if fd is None:
            return "EBADF"
        self.system.close(fd)
        return 0

    def new_view(self, addr: int, length: int) -> str:
        self.made += 1
        self.views[f"v{self.made}"] = (addr, length)
        return f"v{self.made}"

    def _munmap(self, name: str) -> Any:
        self.system.unmap_file(*self.views.pop(name))
        return 0

    def _sum(self) -> Any:
        """Checksums of the buffers: who wrote where."""
        return [
            shown(self.system.peek(self.buffers[name][0], self.buffers[name][1] * PAGE)) if name in self.mapped else ""
            for name in self.patterned
        ]


def pattern(name: str, pages: int) -> bytes:
    """No two words of it are the same, so a read from a wrong place shows."""
    start = ord(name) << 24
    return array("I", range(start, start + pages * PAGE // 4)).tobytes()


def shown(data: bytes) -> str:
    return data.hex() if len(data) <= SHOWN else f"{len(data)}:{crc32(data):08x}"
