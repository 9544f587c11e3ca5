# SPDX-License-Identifier: GPL-2.0-only
"""
Calls on an iommufd (:mod:`corpus.player` says what they look like). The dict of an ioctl may
say ``fd``, whom to ask instead of the iommufd. Files that are always there: ``memfd``, ``eventfd``.
"""

from __future__ import annotations

from typing import Any

from corpus.player import Player as BasePlayer
from corpus.player import shown
from corpus.system import System

from iommufd_corpus.wire import LAYOUTS, PLAIN

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


class Player(BasePlayer):
    """Files and memory of one session."""

    buffers = BUFFERS
    patterned = "SPFR"
    layouts = LAYOUTS

    def __init__(self, system: System, huge: bool) -> None:
        files = {"memfd": system.memfd(16), "argument": system.memfd(1), "eventfd": system.eventfd()}
        self.pinned = system.vm_pin()
        super().__init__(system, files, absent="" if huge else "H")
        system.read_only(BUFFERS["R"][0], BUFFERS["R"][1])
        system.read_only(BUFFERS["Q"][0], 1)

    def make(self, name: str, *args: Any) -> Any:
        if name in LAYOUTS:
            how = args[1] if len(args) > 1 else {}
            return self.ioctl(name, how.get("fd", "i"), args[0], how)
        if name in PLAIN:
            return self.system.ioctl(self.fd("i"), PLAIN[name], args[0])
        return super().make(name, *args)

    def returned(self, name: str, result: Any, extra: dict[str, Any], ahead: int) -> Any:
        if name == "DMABUF_GET" and not isinstance(result, str):
            extra["fd"] = self.new_file(result or ahead)
            return 0  # Linux 7.3.4 makes the file but forgets to say its number
        return result

    def _open(self) -> Any:
        self.files["i"] = self.system.open("/dev/iommu")
        return 0

    def _read(self, name: str, count: int) -> Any:
        at = self.buffers["X"][0]
        got = self.system.read(self.fd(name), at, count)
        return [got, shown(self.system.peek(at, got))] if got else 0

    def _write(self, name: str, data: str) -> Any:
        raw = bytes.fromhex(data)
        self.system.poke(self.buffers["X"][0], raw)
        return self.system.write(self.fd(name), self.buffers["X"][0], len(raw))

    def _poll(self, name: str) -> Any:
        return self.system.poll(self.files[name]) if name in self.files else "EBADF"

    def _mmap(self, length: int, prot: int, flags: int, offset: int) -> Any:
        addr = self.system.map_file(self.fd("i"), length, prot, flags, offset)
        return self.new_view(addr, length)

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
