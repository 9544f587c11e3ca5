# SPDX-License-Identifier: GPL-2.0-only
"""
Serve a real program with a modelled machine.

The leader of the machine's runtime waits in :class:`Loop`, receives one system call
and handles it in place, as the client's own kernel would; if the handler must sleep,
another task goes on with the loop and the answer is sent when it is there.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from errno import EIO
from functools import partial
from typing import Any

from uvfio.linux.kernel.fs import File, fput, run_task_works
from uvfio.linux.kernel.kernfs import kernfs_write
from uvfio.linux.kernel.printk import log_buf
from uvfio.live.attributes import AttributeOperations
from uvfio.live.client import Clients, LiveThread
from uvfio.live.control import Control
from uvfio.live.fdcalls import FdCalls
from uvfio.live.fdcalls import Handler as FdHandler
from uvfio.live.files import OpenFile, OpenFiles
from uvfio.live.kvm import DEV_KVM, HostVms, host_has_kvm
from uvfio.live.loop import Loop
from uvfio.live.mappedmemory import MappedMemory
from uvfio.live.notify import Call, Listener
from uvfio.live.pathcalls import Handler as PathHandler
from uvfio.live.pathcalls import PathCalls
from uvfio.live.regions import Regions
from uvfio.live.shellwrite import ShellWrites, Write
from uvfio.live.signals import forwarded
from uvfio.live.spawn import fd_base, spawn
from uvfio.live.status import CallCounter, Trace, address_spaces, devices
from uvfio.live.sysno import SYS, SYSCALL_NAME
from uvfio.live.view import View
from uvfio.machine import Machine
from uvfio.runtime.collector import seldom_collecting
from uvfio.runtime.errors import Errno, InternalError, Splat
from uvfio.runtime.live import LiveRuntime
from uvfio.runtime.task import current

MMAP = SYS["mmap"]
IOCTL = SYS["ioctl"]
UVFIO_FAILED = 125
SETTLE_SECONDS = 2.0  # for fds that processes outside of the filter may hold


class Supervisor:
    """One run of one program. Everything here happens in tasks of *machine*."""

    def __init__(self, machine: Machine, trace: Trace | None = None) -> None:
        assert isinstance(machine.runtime, LiveRuntime)
        self.machine = machine
        self.runtime = machine.runtime
        self.trace = trace
        self.loop = Loop(self.runtime)
        self.open_files = OpenFiles()
        self._host_vms = HostVms() if host_has_kvm() else None
        of_host = [DEV_KVM] if self._host_vms else []
        self.view: View = machine.run(lambda: View(of_host), "view")
        self.reaped: int | None = None  # the wait status of our child, if a tracing thread had it
        self.regions = Regions(self.open_files, self.loop, self.complain, self._reaped, self._guarded)
        self.open_files.furnish = self.regions.furnish
        self.open_files.device_memory = self.regions.device_memory
        self.open_files.watch_pipe = self._watch_pipe
        self.mapped_memory = MappedMemory()
        self.broken: list[BaseException] = []  # findings and bugs met on the way
        self.status: int | None = None
        self.deserted = False  # no process is under the filter any more
        self._main = 0
        self._argv: list[str] = []
        self._control: Control | None = None
        self._shell_writes: ShellWrites | None = None
        self._listener: Listener
        self._clients: Clients
        self._fd_handlers: dict[int, FdHandler] = {}
        self._path_handlers: dict[int, PathHandler] = {}
        self._add_handlers()

    def run(self, argv: Sequence[str]) -> int:
        """Run *argv* until nothing under its filter is left; its exit status as a shell shows it."""
        self._control = control = Control(self.loop, self.view.root, self._status)
        self._argv = list(argv)
        env = dict(os.environ, UVFIO_CONTROL=control.path)
        base = fd_base()
        self._main, listener = spawn(argv, env, base, modelled_kvm=self._host_vms is None)
        self._listener = Listener(listener)
        self._clients = Clients(self._listener, self.open_files, self.loop, base, self.complain)
        self._watch(control)
        self.runtime.idle = self.loop.idle
        with forwarded(self._main), seldom_collecting():
            self.runtime.run_until(self._over)
        # A killed process leaves the filter before its files are closed.
        self.machine.run(self._wait_for_releases, "exit")
        assert self.status is not None
        return self.status

    def close(self) -> None:
        """Give back everything; says what the clients left behind (nothing, if all is well)."""
        self.runtime.idle = None
        if self._control is not None:
            self._control.close()
        self.regions.close()
        if self._shell_writes is not None:
            self._shell_writes.close()
        self.machine.run(self.view.close, "view")
        if self._main:
            self._clients.close()
            os.close(self._listener.fd)
        self.open_files.close()
        self.loop.close()

    def complain(self, line: str) -> None:
        sys.stderr.write(f"uvfio: {line}\n")

    def _status(self) -> dict[str, Any]:
        """What there is now. Whoever asks wants to know of calls, too: they are counted from then on."""
        if not isinstance(self.trace, CallCounter):
            self.trace = CallCounter(self.trace)
        return {
            "pid": os.getpid(),
            "program": self._argv,
            "processes": len(self._clients.by_pid),
            "files": len(self.open_files.by_link),
            "devices": devices(),
            "address_spaces": address_spaces(self.open_files.by_link.values()),
            "calls": dict(self.trace.counts),
        }

    def _add_handlers(self) -> None:
        for name, on_fd in FdCalls(self.regions.mapped, self._copied, self.mapped_memory).handlers().items():
            self._fd_handlers[SYS[name]] = on_fd
        for name, on_path in PathCalls(self.view, self.complain).handlers().items():
            self._path_handlers[SYS[name]] = on_path

    def _watch(self, control: Control) -> None:
        pidfd = os.pidfd_open(self._main)
        self.loop.serve(self._listener.fd, self._listener.receive, self._handle, self._hung_up)
        self.loop.direct(self.open_files.inotify, lambda _events: self._start_releases())
        self.loop.direct(pidfd, lambda _events: self._main_exited(pidfd))
        control.start()

    def _over(self) -> bool:
        return self.status is not None and self.deserted and not self._clients.by_pid

    def _wait_for_releases(self) -> None:
        current().runtime.point("exit", self, ready=lambda: not self.open_files.by_link, timeout=SETTLE_SECONDS)

    def _reaped(self, pid: int, status: int) -> None:
        if pid == self._main:
            self.reaped = status

    def _main_exited(self, pidfd: int) -> None:
        try:
            pid, status = os.waitpid(self._main, os.WNOHANG)
            if not pid:
                return
        except ChildProcessError:
            status = self.reaped or 0
        self.status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        self.loop.stop_direct(pidfd)
        os.close(pidfd)

    def _copied(self, thread: LiveThread, file: File) -> None:
        if self._shell_writes is None:
            is_open = self.open_files.by_link.__contains__
            self._shell_writes = ShellWrites(self._shell_write, self._start_releases, is_open, self._reaped, self.loop)
        self._shell_writes.copied(thread.tid, file.host.link)

    def _shell_write(self, write: Write) -> None:
        def body() -> None:
            file = self.open_files.by_link.get(write.link)
            try:
                if file is not None and isinstance(file.f_op, AttributeOperations):
                    write.result = kernfs_write(file.f_op.node, write.data)
            except Errno as e:
                write.result = -e.number
            finally:
                write.done.set()

        self._spawn(body, "write")

    def _start_releases(self) -> None:
        for file in self.open_files.released():
            self._spawn(partial(self._release, file), f"close {file.name}")

    def _watch_pipe(self, file: File, fd: int) -> None:
        def broken(_events: int) -> None:
            self.loop.stop_direct(fd)
            if self.open_files.hung_up(file):
                self._spawn(partial(fput, file), f"close {file.name}")

        self.loop.direct(fd, broken, 0)

    def _release(self, file: File) -> None:
        self.mapped_memory.released(file)
        self.regions.released(file)
        fput(file)

    def _spawn(self, body: Callable[[], Any], name: str) -> None:
        self.runtime.spawn(lambda: self._guarded(body), name)

    def _guarded(self, body: Callable[..., Any], *args: Any) -> Any:
        """*body* must not take the supervisor down; None if it went wrong."""
        try:
            return body(*args)
        except Errno as e:
            self.complain(f"{current().name}: {e}")
        except (Splat, InternalError) as e:
            self._report(e)
        except Exception as e:
            self._report(e)
        return None

    def _report(self, e: BaseException) -> None:
        self.broken.append(e)
        if isinstance(e, Splat):
            self.complain(f"BUG: {e}")
        else:
            self.complain("internal error; please report:")
            traceback.print_exception(e)

    def _hung_up(self) -> None:
        self.deserted = True

    def _handle(self, call: Call) -> None:
        """The hot path: as few Python calls as can be."""
        on_fd = self._fd_handlers.get(call.nr)
        file: File | None = None
        if on_fd is None:
            thread = self._clients.thread(call)
        else:
            fd = call.args[4 if call.nr == MMAP else 0] & 0xFFFFFFFF
            thread, file = self._clients.thread_and_file(call, fd)
            if file is None and call.nr == IOCTL and thread is not None and self._host_vms is not None:
                file = self._host_vms.file_of(thread, call.args)
        if thread is None or (file is None and on_fd is not None):
            self._listener.send_continue(call)
            return
        task = current()
        task.process = thread
        result: int | None
        try:
            if on_fd is None or file is None:
                result = self._path_handlers[call.nr](thread, call.args)
            else:
                opened: OpenFile = file.host
                opened.calls += 1  # fdget(): it may be closed while the handler sleeps
                try:
                    if opened.polled is None:
                        result = on_fd(thread, file, call.args)
                    else:
                        result = opened.polled.around(partial(on_fd, thread, file, call.args))
                finally:
                    opened.calls -= 1
                    if opened.closed and not opened.calls:
                        self._release(file)
        except Errno as e:
            result = -e.number
        except Exception as e:
            # The host has nothing to say of a client that was killed meanwhile.
            if not isinstance(e, OSError) or self._listener.valid(call):
                self._report(e)
            result = -EIO
        if task.task_works:
            self._guarded(run_task_works)
        task.process = None
        if self.trace is not None and (result is not None or file is not None):
            self.trace.call(thread, SYSCALL_NAME[call.nr], call.args, file, result)
        if result is None:
            self._listener.send_continue(call)
        elif not call.answered:
            self._listener.send(call, result)


def run(argv: Sequence[str], machine: Machine, trace: Trace | None = None, log: bool = False) -> int:
    """
    Run the program *argv* with *machine*; its exit status, 128 + N for signal N, or
    125 when uvfio itself went wrong on the way. *log*: show the kernel's on stderr.

    Raises CannotRun with one line for the user.
    """
    supervisor = Supervisor(machine, trace)
    if log:
        machine.run(lambda: log_buf().consoles.append(supervisor.complain), "console")
    try:
        status = supervisor.run(argv)
    finally:
        supervisor.close()
    ours = [e for e in supervisor.broken if not isinstance(e, Splat)]
    return UVFIO_FAILED if ours else status
