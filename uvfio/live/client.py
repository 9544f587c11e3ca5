# SPDX-License-Identifier: GPL-2.0-only
"""
Real processes as the modelled kernel sees them.

A Client is one process (one address space), a LiveThread one of its threads with the
call it is in; the thread is what a task has as its ``process``, since fd tables can
differ from thread to thread. File permissions are not looked at: whoever may run
uvfio has everything, except that locked memory is limited as it is on the host.
"""

from __future__ import annotations

import os
import resource
import select
from collections.abc import Callable
from errno import EBADF, EMFILE

from uvfio.linux.kernel.fs import O_CLOEXEC, File, FileOperations
from uvfio.linux.kernel.process import CAP_IPC_LOCK
from uvfio.live import host
from uvfio.live.eventfd import LiveEventfd, Poller, eventfd_of
from uvfio.live.files import OpenFiles
from uvfio.live.memory import LiveMm
from uvfio.live.notify import Call, Listener
from uvfio.live.sharedfile import ClientFile, NoMemory
from uvfio.runtime.errors import Errno

VM_LINK = "anon_inode:kvm-vm"
HOST_FILE = FileOperations()  # of a file that is none of ours: every use as one of ours fails
MANY_FDS = 1 << 16
MANY_THREADS = 32  # look for dead ones among the known threads whenever there are so many more


class Client:
    """A process that runs under the filter."""

    def __init__(self, pid: int, open_files: OpenFiles) -> None:
        self.pid = pid
        self.open_files = open_files
        self.pidfd = os.pidfd_open(pid)
        self.threads: dict[int, LiveThread] = {}
        self.comm = ""
        self.cwd_fd = -1  # what chdir.py left open
        try:
            self.read_status()
            self.mm = LiveMm(self)
        except (OSError, KeyError):  # it was killed just now
            os.close(self.pidfd)
            raise

    def read_status(self) -> None:
        with open(f"/proc/{self.pid}/status", encoding="utf-8", errors="replace") as lines:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
        self.comm = status["Name"]

    def new_mm(self) -> None:
        """The process has exec'ed: it has an address space of its own again."""
        mm = LiveMm(self)
        self.mm.close()
        self.mm = mm
        self.read_status()

    def close(self) -> None:
        for thread in self.threads.values():
            os.close(thread.fd_dir)
        self.threads.clear()
        self.mm.close()
        os.close(self.pidfd)


class LiveThread:
    """One thread; implements ``kernel.process.Process`` and ``Files``."""

    def __init__(self, tid: int, client: Client, clients: Clients) -> None:
        self.tid = tid
        self.pid = client.pid
        self.client = client
        self.clients = clients
        # Bound to this very thread: if its number is ever used again, look-ups here fail.
        self.fd_dir = os.open(f"/proc/{tid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.call: Call | None = None
        self.reserved: dict[int, int] = {}

    @property
    def comm(self) -> str:
        return self.client.comm

    @property
    def mm(self) -> LiveMm:
        return self.client.mm

    @property
    def files(self) -> LiveThread:
        return self

    def capable(self, capability: int) -> bool:
        return capability != CAP_IPC_LOCK or host.has_capability(self.tid, CAP_IPC_LOCK)

    def runs_guest(self) -> bool:
        """Has it a VM of the host's KVM open?"""
        return any(self._link(fd) == VM_LINK for fd in os.listdir(self.fd_dir))

    def file_of(self, fd: int) -> File | None:
        """The modelled File that *fd* stands for. None: it is the host's, or not open."""
        return self.clients.open_files.by_link.get(self._link(str(fd)))

    def is_open(self, fd: int) -> bool:
        return bool(self._link(str(fd)))

    def _link(self, fd: str) -> str:
        """What /proc says of *fd*; empty if it is not open."""
        try:
            return os.readlink(fd, dir_fd=self.fd_dir)
        except OSError:
            return ""

    def get(self, fd: int) -> File:
        file = self.file_of(fd) if fd >= 0 else None
        if file is not None:
            return file
        if fd < 0 or not self.is_open(fd):
            raise Errno(EBADF)
        return File(HOST_FILE, name="host file")

    def memory(self, fd: int) -> ClientFile | NoMemory:
        if self.file_of(fd) is not None:
            return NoMemory()  # and a duplicate of it would keep it open
        try:
            ours = host.pidfd_getfd(self.client.pidfd, fd)
        except OSError:
            raise Errno(EBADF) from None
        return ClientFile(ours, self.mm.pin_file, self.clients.open_files.shared)

    def eventfd(self, fd: int) -> LiveEventfd:
        return eventfd_of(self.client.pidfd, fd, self.clients.poller)

    def reserve(self, flags: int) -> int:
        fd = self.free_fd()
        self.reserved[fd] = flags
        return fd

    def unreserve(self, fd: int) -> None:
        del self.reserved[fd]

    def install(self, fd: int, file: File) -> None:
        self.give(file, fd, self.reserved.pop(fd), answer=False)

    def give(self, file: File, fd: int, flags: int, answer: bool, keep_content: bool = False) -> None:
        """Put *file*, of which the caller passes on a reference, at *fd* of this thread."""
        assert self.call is not None
        ours = self.clients.open_files.create(file, keep_content)
        try:
            added = self.clients.listener.add_fd(self.call, ours, fd, bool(flags & O_CLOEXEC), answer)
        except OSError as e:
            raise Errno(EMFILE if e.errno in (EMFILE, EBADF) else e.errno or EMFILE) from None
        finally:
            os.close(ours)
        self.call.answered = self.call.answered or (answer and added is not None)

    def free_fd(self) -> int:
        """The lowest free number from the base on. Errno EMFILE."""
        try:
            limit, _hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        except PermissionError:
            limit = _shown_fd_limit(self.pid)  # of another user, and root here is without CAP_SYS_RESOURCE
        except OSError:
            limit = self.clients.base  # it was killed just now
        for fd in range(self.clients.base, limit if limit != resource.RLIM_INFINITY else MANY_FDS):
            if fd not in self.reserved and not self.is_open(fd):
                return fd
        raise Errno(EMFILE)


class Clients:
    """All processes under the filter that have called yet."""

    def __init__(
        self, listener: Listener, open_files: OpenFiles, poller: Poller, base: int, complain: Callable[[str], None]
    ) -> None:
        self.listener = listener
        self.open_files = open_files
        self.poller = poller
        self.base = base
        self.complain = complain
        self._hidden: set[int] = set()
        self.threads: dict[int, LiveThread] = {}
        self.by_pid: dict[int, Client] = {}

    def thread(self, call: Call) -> LiveThread | None:
        """The thread that made *call*; None if it is gone already."""
        found = self.threads.get(call.tid)
        if found is None or not _alive(found):
            found = self._new_thread(call)
        if found is not None:
            found.call = call
        return found

    def thread_and_file(self, call: Call, fd: int) -> tuple[LiveThread | None, File | None]:
        """The same, and what *fd* of it stands for: the hot path, which looks once."""
        thread = self.threads.get(call.tid)
        if thread is not None:
            try:
                link = os.readlink(str(fd), dir_fd=thread.fd_dir)
                thread.call = call
                return thread, self.open_files.by_link.get(link)
            except OSError:
                pass
        thread = self.thread(call)
        return thread, None if thread is None else thread.file_of(fd)

    def close(self) -> None:
        for client in list(self.by_pid.values()):
            self._exited(client)

    def _new_thread(self, call: Call) -> LiveThread | None:
        try:
            client = self._client(_tgid(call.tid))
            thread = LiveThread(call.tid, client, self)
        except (OSError, KeyError) as e:
            # A caller that waits is there; so it has died, or does not let itself be seen.
            if isinstance(e, PermissionError) and self.listener.valid(call) and call.tid not in self._hidden:
                self._hidden.add(call.tid)
                self.complain(f"process {call.tid} cannot be looked into ({e.strerror}): it does not find our devices")
            return None
        if not self.listener.valid(call):
            os.close(thread.fd_dir)
            return None
        old = self.threads.get(call.tid)
        if old is not None:
            self._drop_thread(old)
        self.threads[call.tid] = client.threads[call.tid] = thread
        if len(client.threads) % MANY_THREADS == 0:
            for each in [t for t in client.threads.values() if t is not thread and not _alive(t)]:
                self._drop_thread(each)
        return thread

    def _client(self, pid: int) -> Client:
        client = self.by_pid.get(pid)
        if client is None:
            client = self.by_pid[pid] = Client(pid, self.open_files)
            self.poller.watch(client.pidfd, select.POLLIN, lambda _events: self._exited(client))
        return client

    def _exited(self, client: Client) -> None:
        self.poller.unwatch(client.pidfd)
        if self.by_pid.get(client.pid) is client:
            del self.by_pid[client.pid]
        for tid, thread in client.threads.items():
            if self.threads.get(tid) is thread:
                del self.threads[tid]
        client.close()

    def _drop_thread(self, thread: LiveThread) -> None:
        thread.client.threads.pop(thread.tid, None)
        self.threads.pop(thread.tid, None)
        os.close(thread.fd_dir)


def _alive(thread: LiveThread) -> bool:
    """Is it still the thread that had this number when we first met it?"""
    try:
        os.stat("../comm", dir_fd=thread.fd_dir)
    except OSError:
        return False
    return True


def _shown_fd_limit(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as lines:
            soft = next(line.split()[3] for line in lines if line.startswith("Max open files"))
    except OSError:
        return 0
    return int(soft) if soft.isdecimal() else resource.RLIM_INFINITY


def _tgid(tid: int) -> int:
    with open(f"/proc/{tid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Tgid:"):
                return int(line[5:])
    raise KeyError(tid)
