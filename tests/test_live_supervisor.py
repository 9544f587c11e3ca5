# SPDX-License-Identifier: GPL-2.0-only
"""Real programs served by a toy machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest
from toy import ToyRun

from uvfio.live.spawn import CannotRun, fd_base

PRELUDE = """
import array, ctypes, errno, fcntl, mmap, os, signal, socket, stat, struct, sys, threading, time
NULL, REVERSE, NEW_FILE, SIGNAL, WAIT, GO, DMA_XOR, CRASH = range(0x3b64, 0x3b6c)
DEV, DIR = "/dev/iommu", "/sys/kernel/iommu_groups"
def opened(): return os.open(DEV, os.O_RDWR)
def fails(what, *args):
    try: what(*args)
    except OSError as e: return errno.errorcode[e.errno]
    return "OK"
"""


@pytest.fixture
def toy() -> Iterator[ToyRun]:
    before = set(os.listdir("/proc/self/fd"))
    run = ToyRun()
    yield run
    assert run.toy.opened == run.toy.released
    assert not run.supervisor.open_files.by_link
    assert not run.machine.runtime.waiters  # type: ignore[attr-defined]
    assert set(os.listdir("/proc/self/fd")) == before
    assert not os.path.exists(run.supervisor.view.root)


def client(toy: ToyRun, code: str) -> int:
    return toy.run(sys.executable, "-S", "-c", PRELUDE + textwrap.dedent(code))


def test_exit_status_is_the_programs(toy: ToyRun) -> None:
    assert toy.run("/bin/sh", "-c", "exit 7") == 7


def test_death_by_signal_is_128_and_the_signal(toy: ToyRun) -> None:
    assert toy.run("/bin/sh", "-c", "kill -9 $$") == 128 + signal.SIGKILL


def test_missing_program_is_one_line(toy: ToyRun) -> None:
    with pytest.raises(CannotRun, match=r"^cannot run /no/such/program: No such file or directory$"):
        toy.run("/no/such/program")


def test_ioctls_reach_the_device_and_answer(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        f = opened()
        b = bytearray(b"12345678")
        assert fcntl.ioctl(f, NULL) == 0
        assert fcntl.ioctl(f, REVERSE, b) == 0 and b == b"87654321", b
        assert fails(fcntl.ioctl, f, 0x3bff) == "ENOTTY"
        assert fails(fcntl.ioctl, f, REVERSE, 0) == "EFAULT"
        libc = ctypes.CDLL(None, use_errno=True)
        readonly = libc.mmap; readonly.restype = ctypes.c_void_p
        page = readonly(None, 4096, 1, 0x22, -1, 0)
        assert libc.ioctl(f, REVERSE, ctypes.c_void_p(page)) == -1 and ctypes.get_errno() == errno.EFAULT
        """,
    )


def test_files_are_character_devices_above_the_base(toy: ToyRun) -> None:
    assert not client(
        toy,
        f"""
        f = opened()
        assert f == {fd_base()}
        for s in (os.stat(DEV), os.fstat(f), os.stat(f)):
            assert stat.S_ISCHR(s.st_mode) and s.st_rdev == os.makedev(10, 258), s
        g = fcntl.ioctl(f, NEW_FILE)
        assert g == f + 1 and not os.get_inheritable(g)
        assert os.readlink(f"/proc/self/fd/{{g}}") == "anon_inode:[toy]"
        assert os.readlink(f"/proc/self/fd/{{f}}") == DEV
        assert fails(os.open, f"/proc/self/fd/{{g}}", os.O_RDWR) == "ENXIO"
        os.close(os.open(f"/proc/self/fd/{{f}}", os.O_RDWR))
        """,
    )
    assert toy.toy.opened == 3


def test_positions_and_tagged_offsets(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        f = opened()
        low = os.dup(f)
        assert os.pread(f, 8, 7 << 40) == (7 << 40).to_bytes(8, "little")
        assert os.pread(low, 8, 0x56 << 48 | 7 << 40) == (7 << 40).to_bytes(8, "little")
        assert os.read(f, 8) == bytes(8) and os.read(f, 8) == (8).to_bytes(8, "little")
        assert fails(os.pwrite, f, b"bad", 0) == "EINVAL" and os.pwrite(f, b"good", 0) == 4
        assert fails(os.lseek, f, 0, 0) == "ESPIPE"
        assert fails(os.ftruncate, f, 100) == "EINVAL"
        m = mmap.mmap(f, 4096, offset=0x56 << 48 | 2 << 40)
        """,
    )
    assert toy.toy.mapped == [2 << 40]


def test_release_comes_with_the_last_reference(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        f = opened()
        d = os.dup(f)
        os.close(f)
        assert fcntl.ioctl(d, NULL) == 0
        if os.fork() == 0:
            assert fcntl.ioctl(d, NULL) == 0
            os._exit(0)
        os.wait()
        a, b = socket.socketpair()
        socket.send_fds(a, [b"x"], [d])
        os.close(d)
        got = socket.recv_fds(b, 1, 1)[1][0]
        assert fcntl.ioctl(got, NULL) == 0
        m = mmap.mmap(got, 4096, offset=0x56 << 48)
        os.close(got)
        """,
    )
    assert toy.toy.opened == toy.toy.released == 1


def test_a_sleeping_call_does_not_stop_others(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        f = opened()
        t = threading.Thread(target=lambda: fcntl.ioctl(f, WAIT))
        t.start()
        for _ in range(20):
            fcntl.ioctl(f, NULL)
        assert t.is_alive()
        fcntl.ioctl(f, GO)
        t.join(10)
        assert not t.is_alive()
        """,
    )


def test_a_client_killed_while_its_call_sleeps(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        f = opened()
        pid = os.fork()
        if pid == 0:
            fcntl.ioctl(f, WAIT)
            os._exit(1)
        fcntl.ioctl(f, NULL)
        time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
        fcntl.ioctl(f, GO)
        """,
    )


def test_eventfds_are_signalled(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        f, e = opened(), os.eventfd(0, os.EFD_NONBLOCK)
        fcntl.ioctl(f, SIGNAL, e)
        assert os.eventfd_read(e) == 1
        assert fails(fcntl.ioctl, f, SIGNAL, 999) == "EBADF"
        assert fails(fcntl.ioctl, f, SIGNAL, 0x7fffffff) == "EBADF"
        assert fails(fcntl.ioctl, f, SIGNAL, f) == "EINVAL"
        """,
    )


@pytest.mark.parametrize("kind", ["PRIVATE", "SHARED"])
def test_dma_reaches_memory(toy: ToyRun, kind: str) -> None:
    assert not client(
        toy,
        f"""
        m = mmap.mmap(-1, 8192, flags=mmap.MAP_{kind} | mmap.MAP_ANONYMOUS)
        m[:] = b"\\x0f" * 8192
        where = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(m)))
        assert ctypes.CDLL(None).ioctl(opened(), DMA_XOR, where) == 0
        assert m[:] == b"\\xf0" * 8192
        """,
    )


def test_sysfs_reads_lists_and_links(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        assert sorted(os.listdir(DIR)) == ["below", "fixed", "value"]
        assert open(DIR + "/below/up/value").read() == "hello\\n"
        assert os.readlink(DIR + "/below/up") == "../../iommu_groups"
        assert os.path.realpath(DIR + "/below/up/fixed") == DIR + "/fixed"
        assert fails(os.open, DIR + "/fixed", os.O_WRONLY) == "EACCES"
        assert fails(os.open, DIR + "/none", os.O_RDONLY) == "ENOENT"
        assert fails(os.open, DIR + "/value/x", os.O_RDONLY) == "ENOTDIR"
        assert fails(os.open, DIR, os.O_RDWR) == "EISDIR"
        assert fails(os.chdir, DIR + "/value") == "ENOTDIR"
        d = os.open(DIR, os.O_RDONLY)
        r = os.open("value", os.O_RDONLY, dir_fd=d)
        assert os.read(r, 100) == b"hello\\n" and fails(os.write, r, b"x") == "EBADF"
        assert stat.S_IMODE(os.stat("fixed", dir_fd=d).st_mode) == 0o444
        os.fchdir(d)
        assert open("below/up/value").read() == "hello\\n"
        """,
    )


def test_working_directories(toy: ToyRun) -> None:
    assert not client(
        toy,
        f"""
        for _ in range(3):
            os.chdir(DIR + "/below")
            assert os.getcwd() == DIR + "/below" and os.listdir() == ["up"]
            os.chdir("..")
            assert os.getcwd() == DIR and open("value").read() == "hello\\n"
        assert sum(int(n) >= {fd_base()} for n in os.listdir("/proc/self/fd")) == 1
        os.chdir("/")
        assert os.getcwd() == "/"
        """,
    )


def test_a_shell_in_sysfs(toy: ToyRun) -> None:
    script = "cd /sys/kernel/iommu_groups/below && cd up && test $(cat value) = hello && pwd -P && echo x > value"
    assert toy.run("/bin/sh", "-c", script) == 0
    assert toy.stored == [b"x\n"]


def test_sysfs_writes_answer_the_attributes_errno(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        w = os.open(DIR + "/value", os.O_WRONLY)
        assert os.write(w, b"one") == 3 and fails(os.write, w, b"busy") == "EBUSY"
        """,
    )
    assert toy.stored == [b"one"]


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash") if shutil.which(shell)])
def test_a_shells_echo_answers_the_attributes_errno(toy: ToyRun, shell: str) -> None:
    script = """
        cd /; v=/sys/kernel/iommu_groups/value
        echo two > $v || exit 1
        echo -n busy > $v && exit 2
        (echo three; /bin/echo four) > $v || exit 3
        printf five | tee $v | cat > /dev/null
        /bin/echo -n busy > $v && exit 4
        exec 5> $v; echo six >&5; exec 5>&-
        echo to the terminal
    """
    assert toy.run(shell, "-c", script.replace("echo -n busy", "printf busy")) == 0
    assert toy.stored == [b"two\n", b"three\n", b"four\n", b"five", b"six\n"]


def test_garbage_does_not_hurt(toy: ToyRun, capfd: pytest.CaptureFixture[str]) -> None:
    assert not client(
        toy,
        """
        import random
        f = opened()
        libc = ctypes.CDLL(None)
        rng = random.Random(1)
        for _ in range(2000):
            calls = [0, 1, 2, 4, 5, 6, 8, 16, 17, 18, 19, 20, 21, 72, 77, 80, 89]
            nr = rng.choice([*calls, 137, 191, 257, 262, 267, 295, 332, 437, 439])
            args = [rng.choice([f, 0, -1, 1 << 63, rng.getrandbits(64), 0x3b64, 4096]) for _ in range(6)]
            if nr in (0, 1, 19, 20) or nr in (2, 257, 437):
                args[0] = f
            libc.syscall(nr, *[ctypes.c_ulong(a & (1 << 64) - 1) for a in args])
        assert fcntl.ioctl(f, NULL) == 0
        assert fails(fcntl.ioctl, f, CRASH) == "EIO"
        """,
    )
    assert "ZeroDivisionError: on purpose" in capfd.readouterr().err
    assert len(toy.supervisor.broken) == 1


def test_exec_gives_new_memory(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        f = opened()
        os.set_inheritable(f, True)
        b = bytearray(b"12345678")
        fcntl.ioctl(f, REVERSE, b)
        code = f"import fcntl; b = bytearray(b'abcdefgh'); fcntl.ioctl({f}, {REVERSE}, b); assert b == b'hgfedcba'"
        os.execv(sys.executable, [sys.executable, "-S", "-c", code])
        """,
    )


def test_io_uring_is_refused(toy: ToyRun) -> None:
    assert not client(
        toy,
        """
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(425, 1, 0) == -1 and ctypes.get_errno() == errno.ENOSYS
        """,
    )


def test_signals_are_forwarded(toy: ToyRun) -> None:
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    assert toy.run("/bin/sleep", "30") == 128 + signal.SIGTERM


def test_killed_at_random_instants(toy: ToyRun) -> None:
    """Fifty processes that open, map, wait and fork are killed; nothing is left."""
    status = client(
        toy,
        """
        import random
        rng = random.Random(7)
        for n in range(50):
            came, begun = os.pipe()
            pid = os.fork()
            if pid == 0:
                while True:
                    f = opened()
                    os.write(begun, b"x")
                    g = fcntl.ioctl(f, NEW_FILE)
                    m = mmap.mmap(g, 4096, offset=0x56 << 48)
                    fcntl.ioctl(f, REVERSE, bytearray(8))
                    open(DIR + "/value").read()
                    os.close(f)
                    m.close()
                    os.close(g)
            if n % 5:
                os.read(came, 1)
            os.close(begun)
            time.sleep(rng.random() * 0.01)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(came)
        """,
    )
    assert status == 0
    assert toy.toy.opened >= 40
