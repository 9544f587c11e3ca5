# SPDX-License-Identifier: GPL-2.0-only
"""
One call in, one answer out, on any :class:`~iommufd_corpus.system.System`.

A call is a list whose first item names it. For an ioctl come the values of its fields
(but for the size) and, when it is not the usual form, a dict:

``in`` bytes put at X before, in hex; ``out`` how many bytes of X to look at after it;
``size`` what to say in the size field; ``tail`` bytes behind the struct; ``at`` where
the struct lies (``null``, ``hole``, ``edge`` of a hole, ``ro`` memory); ``fd`` whom to
ask instead of the iommufd; ``request`` another request number.

A value is a number, ``"S+4096"`` for an address in a buffer, ``"h3"`` for the number
of the third file that calls have made, ``"memfd"``, ``"eventfd"``. Closed files have number 99999,
which is never open. An answer is an errno's name or what the call returned; when
memory changed it is a pair of that and a dict: fields that differ now, ``X`` and
``tail`` when bytes there do.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from iommufd_corpus.system import PAGE, Failed, System
from iommufd_corpus.wire import LAYOUTS, NEW_FD, PLAIN, TEST_SIZE, Layout

# name -> address, pages, kind. Behind each is a hole. Addresses decide how automatic
# IOVAs are aligned, so they must be the same everywhere.
BUFFERS: dict[str, tuple[int, int, str]] = {
    "S": (0x10_0020_0000, 32, "shared"),
    "P": (0x10_0040_5000, 16, "private"),
    "F": (0x10_0060_8000, 16, "file"),
    "R": (0x10_0080_0000, 4, "private"),
    "H": (0x10_00A0_0000, 512, "huge"),
    "X": (0x10_00D0_1000, 4, "shared"),
    "A": (0x10_00D1_1000, 2, "shared"),
    "Q": (0x10_00D2_1000, 1, "file"),
    "W": (0x10_00D2_3000, 1, "file"),  # the same page as Q, where it can be written
}
DATA = "SPFR"  # those that hold a pattern and are watched for changes
CLOSED = 99_999
SHOWN = 64  # longer memory is kept as a checksum
BEHIND = 160  # bytes behind a struct that are watched


class Player:
    """Files and memory of one session."""

    def __init__(self, system: System, huge: bool) -> None:
        self.system = system
        self.files: dict[str, int] = {
            "memfd": system.memfd(16),
            "argument": system.memfd(1),
            "eventfd": system.eventfd(),
        }
        self.views: dict[str, tuple[int, int]] = {}
        self.made = 0
        self.pinned = system.vm_pin()
        self.mapped: set[str] = set()
        for name in BUFFERS:
            if name != "H" or huge:
                self.map_buffer(name)
        system.read_only(BUFFERS["R"][0], BUFFERS["R"][1])
        system.read_only(BUFFERS["Q"][0], 1)

    def map_buffer(self, name: str) -> None:
        addr, pages, kind = BUFFERS[name]
        fd = self.files["memfd" if name == "F" else "argument"] if kind == "file" else -1
        self.system.map_memory(addr, pages, kind, fd)
        self.mapped.add(name)
        if name in DATA:
            self.system.poke(addr, pattern(name, pages))

    def close(self) -> None:
        """End of the session: whatever is left goes."""
        for addr, length in self.views.values():
            self.system.unmap_file(addr, length)
        for fd in self.files.values():
            self.system.close(fd)
        for name in self.mapped:
            self.system.unmap_memory(*BUFFERS[name][:2])

    def play(self, call: Sequence[Any]) -> Any:
        """Make *call*; its answer."""
        name, *args = call
        try:
            if name in LAYOUTS:
                return self._ioctl(LAYOUTS[name], name, args[0], args[1] if len(args) > 1 else {})
            if name in PLAIN:
                return self.system.ioctl(self.fd("i"), PLAIN[name], args[0])
            return getattr(self, f"_{name}")(*args)
        except Failed as failed:
            return str(failed)

    def fd(self, name: str) -> int:
        return self.files.get(name, CLOSED)

    def value(self, value: Any) -> int:
        if isinstance(value, int):
            return value
        buffer, plus, offset = value.partition("+")
        return BUFFERS[buffer][0] + int(offset) if plus else self.fd(value)

    # ---- ioctls

    def _ioctl(self, layout: Layout, name: str, values: Sequence[Any], how: dict[str, Any]) -> Any:
        size = how.get("size", layout.size if layout.op is None else TEST_SIZE)
        head = [size] if layout.op is None else [size, layout.op]
        sent = [*head, *(self.value(v) for v in values)]
        data = layout.pack(sent).ljust(TEST_SIZE if layout.op is not None else 0, b"\0")
        data += bytes.fromhex(how.get("tail", ""))
        arg, where = self._place(data, how.get("at", ""))
        before = self._fill(how)
        fd, ahead = self.fd(how.get("fd", "i")), self.system.next_fd()
        try:
            result: Any = self.system.ioctl(fd, how.get("request", layout.request), arg)
        except Failed as failed:
            result = str(failed)
        extra: dict[str, Any] = {}
        if where:
            self._changes(layout, data, self.system.peek(where, len(data) + BEHIND), extra)
        if "request" not in how:
            if name in NEW_FD and result == 0:
                # The caller may have put the very number there.
                extra.setdefault(NEW_FD[name], sent[layout.names.index(NEW_FD[name])])
            self._new_file(name, result, extra, ahead)
        if name == "DMABUF_GET" and not isinstance(result, str):
            result = 0  # Linux 7.3.4 makes the file but forgets to say its number
        after = self.system.peek(BUFFERS["X"][0], len(before))
        if after != before:
            extra["X"] = shown(after)
        return [result, extra] if extra else result

    def _place(self, data: bytes, at: str) -> tuple[int, int]:
        """Where the argument is, and where its memory can be looked at (0: nowhere)."""
        page = BUFFERS["A"][0]
        if at == "null":
            return 0, 0
        if at == "hole":
            return page + 2 * PAGE, 0
        if at == "edge":
            cut = data[: len(data) // 2]
            self.system.poke(page + 2 * PAGE - len(cut), cut)
            return page + 2 * PAGE - len(cut), 0
        if at == "ro":
            self.system.poke(BUFFERS["W"][0], data + bytes(BEHIND))
            return BUFFERS["Q"][0], BUFFERS["W"][0]
        self.system.poke(page, data + bytes(BEHIND))
        return page, page

    def _fill(self, how: dict[str, Any]) -> bytes:
        data = bytes.fromhex(how.get("in", ""))
        data = data.ljust(how.get("out", 0), b"\0")
        if data:
            self.system.poke(BUFFERS["X"][0], data)
        return data

    def _changes(self, layout: Layout, sent: bytes, got: bytes, extra: dict[str, Any]) -> None:
        if got[: layout.size] != sent[: layout.size]:
            old, new = layout.unpack(sent[: layout.size]), layout.unpack(got[: layout.size])
            extra.update((name, b) for name, a, b in zip(layout.names, old, new, strict=True) if a != b)
        if got[layout.size :] != (sent[layout.size :] + bytes(BEHIND)):
            extra["tail"] = shown(got[layout.size :].rstrip(b"\0"))

    def _new_file(self, name: str, result: Any, extra: dict[str, Any], ahead: int) -> None:
        """Numbers of files differ from run to run: in answers they have names."""
        field = NEW_FD.get(name)
        if field is not None and field in extra and result == 0:
            extra[field] = self._made(extra[field])
        elif field is not None and extra.get(field) == ahead:
            extra[field] = "unused"
        elif name == "DMABUF_GET" and not isinstance(result, str):
            extra["fd"] = self._made(result or ahead)

    def _made(self, fd: int) -> str:
        assert self.system.is_open(fd), f"fd {fd} must be open"
        self.made += 1
        self.files[f"h{self.made}"] = fd
        return f"h{self.made}"

    # ---- the other calls, by name

    def _raw(self, fd: str, request: int, arg: Any, head: str = "") -> Any:
        """Any request number; *head* is put at A first."""
        self.system.poke(BUFFERS["A"][0], bytes.fromhex(head).ljust(BEHIND, b"\0"))
        return self.system.ioctl(self.fd(fd), request, self.value(arg))

    def _skip(self) -> Any:
        """In place of a call that made a file, when a session is shortened."""
        self.made += 1
        return 0

    def _open(self) -> Any:
        self.files["i"] = self.system.open("/dev/iommu")
        return 0

    def _close(self, name: str) -> Any:
        fd = self.files.pop(name, None)
        if fd is None:
            return "EBADF"
        self.system.close(fd)
        return 0

    def _read(self, name: str, count: int) -> Any:
        at = BUFFERS["X"][0]
        got = self.system.read(self.fd(name), at, count)
        return [got, shown(self.system.peek(at, got))] if got else 0

    def _write(self, name: str, data: str) -> Any:
        raw = bytes.fromhex(data)
        self.system.poke(BUFFERS["X"][0], raw)
        return self.system.write(self.fd(name), BUFFERS["X"][0], len(raw))

    def _poll(self, name: str) -> Any:
        return self.system.poll(self.files[name]) if name in self.files else "EBADF"

    def _mmap(self, length: int, prot: int, flags: int, offset: int) -> Any:
        addr = self.system.map_file(self.fd("i"), length, prot, flags, offset)
        self.made += 1
        self.views[f"v{self.made}"] = (addr, length)
        return f"v{self.made}"

    def _munmap(self, name: str) -> Any:
        self.system.unmap_file(*self.views.pop(name))
        return 0

    def _peek(self, name: str, offset: int) -> Any:
        return shown(self.system.peek(self.views[name][0] + offset, 16))

    def _poke(self, name: str, offset: int, data: str) -> Any:
        self.system.poke(self.views[name][0] + offset, bytes.fromhex(data))
        return 0

    def _drop(self, name: str) -> Any:
        """Unmap a buffer of the process; what is pinned stays pinned."""
        if name not in self.mapped:
            return "gone"
        self.system.unmap_memory(*BUFFERS[name][:2])
        self.mapped.remove(name)
        return 0

    def _fresh(self, name: str) -> Any:
        """Other pages at the same addresses."""
        if name in self.mapped:
            return "there"
        self.map_buffer(name)
        return 0

    def _vmpin(self) -> Any:
        """Pages pinned since the session began: Linux loses count of some now and then."""
        return self.system.vm_pin() - self.pinned

    def _sum(self) -> Any:
        """Checksums of the buffers: who wrote where."""
        return [
            shown(self.system.peek(BUFFERS[name][0], BUFFERS[name][1] * PAGE)) if name in self.mapped else ""
            for name in DATA
        ]


def pattern(name: str, pages: int) -> bytes:
    """No two words of it are the same, so a read from a wrong place shows."""
    start = ord(name) << 24
    return array("I", range(start, start + pages * PAGE // 4)).tobytes()


def shown(data: bytes) -> str:
    return data.hex() if len(data) <= SHOWN else f"{len(data)}:{crc32(data):08x}"
