# SPDX-License-Identifier: GPL-2.0-only
"""
The tree behind sysfs: directories, attributes and links.

Mirrors ``fs/kernfs`` and ``fs/sysfs``. A handler runs with an *active reference* on
its attribute; whoever removes the attribute, or a directory above it, waits until
the last one is dropped. All differences from Linux:

* an attribute is its directory and its name as far as scheduling points go, and the
  removal of several at once is one point on the directory;
* permission bits are kept for whoever shows the tree, only the check that sysfs
  makes for root too is made here (:func:`kernfs_fop_open`);
* files can be opened as if for mmap (``resourceN``), but not mapped;
* no poll, no namespaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EACCES, EEXIST, EIO, ENODEV, ENOENT

from uvfio.linux.kernel.bug import WARN_ON, might_sleep
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import Task, current, per_machine

PAGE_SIZE = 4096


class Attribute:
    """A text file: *show()* gives its whole content, *store(data)* gets the raw bytes."""

    def __init__(
        self,
        name: str,
        mode: int,
        show: Callable[[], str] | None = None,
        store: Callable[[bytes], None] | None = None,
    ) -> None:
        self.name = name
        self.mode = mode
        self.show = show
        self.store = store


class BinAttribute:
    """
    A file of *size* bytes: *read(off, n)* and *write(off, data)*, which says how many.

    One that is *mappable* can be opened without them.
    """

    def __init__(
        self,
        name: str,
        mode: int,
        size: int,
        read: Callable[[int, int], bytes] | None = None,
        write: Callable[[int, bytes], int] | None = None,
        mappable: bool = False,
    ) -> None:
        self.name = name
        self.mode = mode
        self.size = size
        self.mappable = mappable
        self.read = read
        self.write = write


class KernfsNode:
    """``struct kernfs_node``: *kind* is ``dir``, ``file`` or ``link``."""

    def __init__(self, name: str, parent: KernfsNode | None, kind: str, mode: int) -> None:
        self.name = name
        self.parent = parent
        self.kind = kind
        self.mode = mode
        self.attr: Attribute | BinAttribute | None = None
        self.target: KernfsNode | None = None
        self.children: dict[str, KernfsNode] = {}
        self.active: list[Task] = []  # who runs a handler of this file now
        self.removed = False  # no new active reference
        self.removing_self = False

    def __repr__(self) -> str:
        return self.path()

    def path(self) -> str:
        return self.name if self.parent is None else f"{self.parent.path()}/{self.name}"


class KernfsRoot:
    """One machine's sysfs. *watchers* hear ``add`` and ``remove`` of every node."""

    def __init__(self) -> None:
        self.root = KernfsNode("/sys", None, "dir", 0o755)
        self.watchers: list[Callable[[str, KernfsNode], None]] = []

    def tell(self, event: str, node: KernfsNode) -> None:
        for watcher in self.watchers:
            watcher(event, node)


kernfs_root = per_machine(KernfsRoot)


def kernfs_destroy_root(root: KernfsRoot) -> None:
    """Nobody will look at the tree any more: take it apart, without a word to anybody."""
    nodes = [root.root]
    while nodes:
        node = nodes.pop()
        nodes += node.children.values()
        node.children.clear()


def kernfs_create_dir(parent: KernfsNode, name: str) -> KernfsNode:
    """Errno EEXIST if *parent* has a child of that name."""
    return _add(KernfsNode(name, parent, "dir", 0o755))


def kernfs_create_file(parent: KernfsNode, attr: Attribute | BinAttribute) -> KernfsNode:
    node = KernfsNode(attr.name, parent, "file", attr.mode)
    node.attr = attr
    return _add(node)


def kernfs_create_link(parent: KernfsNode, name: str, target: KernfsNode) -> KernfsNode:
    node = KernfsNode(name, parent, "link", 0o777)
    node.target = target
    return _add(node)


def kernfs_find(path: str) -> KernfsNode | None:
    """The node at the absolute *path* (``/sys/...``); links are not followed."""
    node: KernfsNode | None = kernfs_root().root
    if path != "/sys" and not path.startswith("/sys/"):
        return None
    for name in path[len("/sys") :].strip("/").split("/"):
        if node is not None and name:
            node = node.children.get(name)
    return node


def kernfs_remove_by_name(parent: KernfsNode, name: str) -> bool:
    """Remove the child *name* of *parent*; False if there is none."""
    node = parent.children.get(name)
    if node is None:
        return False
    kernfs_remove(node)
    return True


def kernfs_remove(node: KernfsNode) -> None:
    """
    Remove *node* and all below it; returns when no handler of any of them runs.

    A handler that removes its own file this way waits for itself: see
    :func:`kernfs_remove_self`.
    """
    might_sleep()
    if not _linked(node):
        return
    if not node.children:
        _remove_alone(node)
        return
    nodes = list(_subtree(node))
    domains: dict[int, tuple[KernfsNode, list[KernfsNode]]] = {}
    for each in nodes:
        each.removed = True
        domain = _domain(each)
        domains.setdefault(id(domain), (domain, []))[1].append(each)
    runtime = current().runtime
    for domain, below in domains.values():
        # From here on nobody gets a reference, which is not the same as having waited.
        runtime.note("kernfs_deactivate", domain, field=_only(domain, below))
    for domain, below in domains.values():
        _drain(domain, below)
    for each in reversed(nodes):
        _unlink(each)


def _remove_alone(node: KernfsNode) -> None:
    """The same for a node with nothing below it, as most are: half of what a machine does when it is cleaned up."""
    node.removed = True
    domain = _domain(node)
    field = "" if node is domain else node.name
    runtime = current().runtime
    runtime.note("kernfs_deactivate", domain, field=field)
    runtime.point("kernfs_drain", domain, ready=lambda: not node.active, field=field)
    _unlink(node)


def kernfs_remove_self(node: KernfsNode) -> bool:
    """
    Called from a handler of *node*: remove it without waiting for this very call.

    True for exactly one caller; the others return once it is gone.
    """
    task = current()
    if WARN_ON(task not in node.active, f"{node} removed by itself, but no handler of it runs here"):
        return False
    task.runtime.point("kernfs_remove_self", _domain(node), field=node.name)
    # Break active protection first: two callers would wait for each other.
    node.active.remove(task)
    try:
        if node.removing_self or node.removed:
            task.runtime.point("kernfs_drain", _domain(node), "r", ready=lambda: not _linked(node))
            return False
        node.removing_self = True
        kernfs_remove(node)
        return True
    finally:
        node.active.append(task)


def kernfs_fop_open(node: KernfsNode, read: bool, write: bool) -> None:
    """What ``open(2)`` checks even for root: Errno EACCES; ENODEV once removed."""
    attr = node.attr
    assert attr is not None
    can_read, can_write = _handlers(attr)
    if write and not (node.mode & 0o222 and can_write):
        raise Errno(EACCES)
    if read and not (node.mode & 0o444 and can_read):
        raise Errno(EACCES)
    if node.removed:
        raise Errno(ENODEV)


def kernfs_read(node: KernfsNode, off: int = 0, n: int | None = None) -> bytes:
    """Read the file. Errno ENODEV once it is removed, EIO if it cannot be read."""
    attr = node.attr
    assert attr is not None
    task = _get_active(node)
    try:
        if isinstance(attr, Attribute):
            if attr.show is None:
                raise Errno(EIO)
            content = attr.show().encode()
            return content[off:] if n is None else content[off : off + n]
        if attr.read is None:
            raise Errno(EIO)
        left = max(0, attr.size - off)
        return attr.read(off, left if n is None else min(n, left))
    finally:
        _put_active(node, task)


def kernfs_write(node: KernfsNode, data: bytes, off: int = 0) -> int:
    """Write to the file; how many bytes were taken. Errors as :func:`kernfs_read`."""
    attr = node.attr
    assert attr is not None
    task = _get_active(node)
    try:
        if isinstance(attr, Attribute):
            if attr.store is None:
                raise Errno(EIO)
            data = data[:PAGE_SIZE]
            if data:
                attr.store(data)
            return len(data)
        if attr.write is None:
            raise Errno(EIO)
        return attr.write(off, data)
    finally:
        _put_active(node, task)


def kernfs_link_target(node: KernfsNode) -> str:
    """What readlink shows: relative to the link, and ending in the target's own name."""
    assert node.target is not None
    assert node.parent is not None
    target = node.target
    # The common ancestor is looked for above the target, so that a link to one's own
    # ancestor still names it.
    above: list[KernfsNode] = []
    each = target.parent
    while each is not None:
        above.append(each)
        each = each.parent
    up, base = "", node.parent
    while base not in above and base.parent is not None:
        up += "../"
        base = base.parent
    names = [target.name]
    for each in above[: above.index(base)]:
        names.insert(0, each.name)
    return up + "/".join(names)


def _handlers(attr: Attribute | BinAttribute) -> tuple[bool, bool]:
    if isinstance(attr, Attribute):
        return attr.show is not None, attr.store is not None
    return attr.mappable or attr.read is not None, attr.mappable or attr.write is not None


def _domain(node: KernfsNode) -> KernfsNode:
    return node if node.kind == "dir" or node.parent is None else node.parent


def _linked(node: KernfsNode) -> bool:
    return node.parent is not None and node.parent.children.get(node.name) is node


def _get_active(node: KernfsNode) -> Task:
    task = current()
    task.runtime.point("kernfs_get_active", _domain(node), "r", field=node.name)
    if node.removed:
        raise Errno(ENODEV)
    node.active.append(task)
    task.runtime.note("kernfs_active", _domain(node), "r", field=node.name)
    return task


def _put_active(node: KernfsNode, task: Task) -> None:
    node.active.remove(task)
    task.runtime.note("kernfs_put_active", _domain(node), field=node.name)


def _drain(domain: KernfsNode, nodes: list[KernfsNode]) -> None:
    field = _only(domain, nodes)
    current().runtime.point("kernfs_drain", domain, ready=lambda: not any(node.active for node in nodes), field=field)


def _only(domain: KernfsNode, nodes: list[KernfsNode]) -> str:
    """The name of the one attribute of *domain* that it is about; empty for more."""
    return nodes[0].name if len(nodes) == 1 and nodes[0] is not domain else ""


def _subtree(node: KernfsNode) -> Iterator[KernfsNode]:
    yield node
    for child in node.children.values():
        yield from _subtree(child)


def _add(node: KernfsNode) -> KernfsNode:
    assert node.parent is not None
    if node.parent.removed:
        raise Errno(ENOENT, f"cannot create {node.path()}")
    if node.name in node.parent.children:
        current().runtime.note("sysfs_duplicate", node)
        raise Errno(EEXIST, f"cannot create {node.path()}")
    node.parent.children[node.name] = node
    # A directory like /sys/kernel is made when first needed, and stays: it is no leak.
    current().runtime.note("sysfs_dir" if node.kind == "dir" else "sysfs_add", node, "r")
    kernfs_root().tell("add", node)
    return node


def _unlink(node: KernfsNode) -> None:
    if _linked(node):
        assert node.parent is not None
        del node.parent.children[node.name]
        if node.kind != "dir":
            current().runtime.note("sysfs_remove", node, "r")
        kernfs_root().tell("remove", node)
