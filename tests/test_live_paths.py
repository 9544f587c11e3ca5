# SPDX-License-Identifier: GPL-2.0-only
"""What paths of a client mean, looked up for this very process as the client."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import ToyRun

from uvfio.live.client import Client, LiveThread
from uvfio.live.files import OpenFiles
from uvfio.live.paths import AT_FDCWD, Resolved, resolve
from uvfio.runtime.errors import Errno

DIR = "/sys/kernel/iommu_groups"
Look = Callable[..., Resolved]


class NoClients:
    """What a thread needs of its ``Clients`` to have paths looked up."""

    def __init__(self, open_files: OpenFiles) -> None:
        self.open_files = open_files


@pytest.fixture
def toy() -> Iterator[ToyRun]:
    toy = ToyRun()
    yield toy
    toy.supervisor.close()


@pytest.fixture
def look(toy: ToyRun) -> Iterator[Look]:
    clients: Any = NoClients(toy.supervisor.open_files)
    client = Client(os.getpid(), toy.supervisor.open_files)
    thread = LiveThread(os.getpid(), client, clients)

    def look(path: str, follow: bool = True, dirfd: int = AT_FDCWD) -> Resolved:
        return toy.machine.run(lambda: resolve(toy.supervisor.view, thread, dirfd, path, follow))

    yield look
    os.close(thread.fd_dir)
    client.close()


@pytest.mark.parametrize(
    ("path", "kind", "at"),
    [
        ("/dev/iommu", "dev", "/dev/iommu"),
        ("//dev/./iommu", "dev", "/dev/iommu"),
        (DIR, "dir", DIR),
        (DIR + "/", "dir", DIR),
        (DIR + "/value", "file", DIR + "/value"),
        (DIR + "/below/up/value", "file", DIR + "/value"),
        (DIR + "/below/up/below/../value", "file", DIR + "/value"),
        ("/usr/../dev/iommu", "dev", "/dev/iommu"),
        ("/proc/self/root/dev/iommu", "dev", "/dev/iommu"),
    ],
)
def test_finds_ours(look: Look, path: str, kind: str, at: str) -> None:
    entry = look(path).entry
    assert entry is not None
    assert (entry.kind, entry.path) == (kind, at)


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/null", "/sys/class", "/nowhere/at/all", "/proc/self/status"])
def test_leaves_the_hosts_alone(look: Look, path: str) -> None:
    found = look(path)
    assert found.entry is None
    assert not found.detour


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/vfio", errno.ENOENT),
        ("/sys/bus/pci/devices", errno.ENOENT),
        (DIR + "/none", errno.ENOENT),
        (DIR + "/value/", errno.ENOTDIR),
        (DIR + "/value/x", errno.ENOTDIR),
        ("/dev/iommu/x", errno.ENOTDIR),
    ],
)
def test_refuses_what_is_not_there(look: Look, path: str, number: int) -> None:
    with pytest.raises(Errno) as caught:
        look(path)
    assert caught.value.number == number


def test_a_link_at_the_end_is_followed_on_demand(look: Look) -> None:
    entry = look(DIR + "/below/up", follow=False).entry
    assert entry is not None
    assert entry.kind == "link"


def test_links_of_the_host_lead_to_us(look: Look, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/iommu")
    entry = look(str(tmp_path / "link")).entry
    assert entry is not None
    assert entry.path == "/dev/iommu"


def test_loops_of_links_end(look: Look, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Errno, match="ELOOP"):
        look(str(tmp_path / "a"))


def test_relative_to_a_directory_of_the_mirror(look: Look, toy: ToyRun) -> None:
    fd = os.open(toy.supervisor.view.host_path(DIR + "/below"), os.O_RDONLY)
    entry = look("../value", dirfd=fd).entry
    os.close(fd)
    assert entry is not None
    assert entry.path == DIR + "/value"


def test_out_of_our_part_is_a_detour(look: Look) -> None:
    found = look(DIR + "/../../../etc/passwd")
    assert found.entry is None
    assert found.detour
    assert found.path == "/etc/passwd"
