# SPDX-License-Identifier: GPL-2.0-only
"""One thread under ptrace: what an instruction of it reads and writes, in memory or in a device."""

from __future__ import annotations

import os
from typing import Protocol

from uvfio.live import host, maps
from uvfio.live.access import Access
from uvfio.live.ptrace import PTRACE_SETREGS, VectorLayout, Vectors, get_vectors, ptrace, set_vectors
from uvfio.live.stops import Fault
from uvfio.live.syscalls import CallLoop


class NoMemory(Exception):
    """The instruction touched memory of the client that is not there: SIGSEGV at *addr*."""

    def __init__(self, addr: int) -> None:
        super().__init__(f"{addr:#x}")
        self.addr = addr


class Owner(Protocol):
    """Who traces it; ``tracing.TracingThread``."""

    layout: VectorLayout
    loop: CallLoop

    def owns(self, device: int, inode: int) -> bool: ...

    def backing(self, inode: int) -> int | None: ...

    def submit(self, access: Access) -> int: ...


class Tracee:
    """A thread stopped in front of an instruction; ``emulate.Cpu``."""

    def __init__(self, owner: Owner, tid: int) -> None:
        self.owner = owner
        self.tid = tid
        self._memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._maps = os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._memory)
            raise
        self._query = maps.MapQuery(self._maps, tid)
        self.fault = Fault(owner.loop, tid, self._memory, maps.MapQuery(self._maps, tid))
        self.regs = self.fault.regs
        self._writer = host.RemoteWriter(tid)
        self._vectors: Vectors | None = None
        self._vectors_changed = False
        self._trapped: maps.Mapping | None = None  # where the instruction faulted

    def close(self) -> None:
        os.close(self._memory)
        os.close(self._maps)

    def stopped(self) -> None:
        """It has a SIGBUS: look where."""
        self.fault.look()
        self._vectors, self._vectors_changed = None, False

    def write_back(self) -> None:
        """What is not in ``fault.regs``."""
        if self._vectors is not None and self._vectors_changed:
            set_vectors(self.tid, self._vectors)

    def in_device(self) -> bool:
        """Is it a device that it touched?"""
        self._trapped = self._ours(self.fault.mapping())
        return self._trapped is not None

    def is_device(self, addr: int, size: int) -> bool:
        """Are these bytes where the instruction faulted?"""
        return self._is_trapped(addr) and self._is_trapped(addr + size - 1)

    def file_offset(self, addr: int) -> int:
        """Where the device's byte at *addr* is in the mapped file."""
        assert self._trapped is not None
        return self._trapped.offset_of(addr)

    def backing(self) -> int | None:
        """A new fd on that file."""
        assert self._trapped is not None
        return self.owner.backing(self._trapped.inode)

    def restart(self) -> None:
        """Go back to where the instruction faulted."""
        ptrace(PTRACE_SETREGS, self.tid, 0, self.fault.regs_at)

    def _ours(self, mapping: maps.Mapping | None) -> maps.Mapping | None:
        """*mapping*, if it is one of our files."""
        if mapping is None or not mapping.shared or not self.owner.owns(mapping.device, mapping.inode):
            return None
        return mapping

    def load(self, addr: int, size: int) -> int:
        if not self._is_trapped(addr):
            try:
                data = os.pread(self._memory, size, addr)
            except (OSError, OverflowError):
                data = b""
            if len(data) == size:
                return int.from_bytes(data, "little")
        return self._device(addr, size, None)

    def store(self, addr: int, size: int, value: int) -> None:
        if self._is_trapped(addr) or not self._writer.write(addr, value.to_bytes(size, "little")):
            self._device(addr, size, value)

    def _is_trapped(self, addr: int) -> bool:
        return self._trapped is not None and self._trapped.start <= addr < self._trapped.end

    def _device(self, addr: int, size: int, value: int | None) -> int:
        mapping = self._trapped if self._is_trapped(addr) else self._ours(self._query.at(addr))
        if mapping is None or not (mapping.readable if value is None else mapping.writable):
            raise NoMemory(addr)
        return self.owner.submit(Access(self.tid, mapping.inode, mapping.offset_of(addr), size, value))

    def get_vector(self, number: int, size: int) -> int:
        return self._get_vectors().get(number, size)

    def set_vector(self, number: int, size: int, value: int) -> None:
        self._get_vectors().set(number, size, value)
        self._vectors_changed = True

    def _get_vectors(self) -> Vectors:
        if self._vectors is None:
            self._vectors = get_vectors(self.tid, self.owner.layout)
        return self._vectors
