# SPDX-License-Identifier: GPL-2.0-only
"""What an answer teaches the generator: one function for each call that makes or ends something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from corpus.choices import Call, changes, failed

from vfio_corpus.bench import REGISTERS
from vfio_corpus.state import State
from vfio_corpus.wire import LAYOUTS

# Written after a reset, which QEMU's devices do not notice (docs/vfio-corpus.md). The factorial takes its time.
QUIET = {
    device: tuple(
        ["pwrite", region, at, value.to_bytes(4, "little").hex()] for region, at, value in registers if at != 0x08
    )
    for device, registers in REGISTERS.items()
}


def learn(state: State, call: Call, answer: Any) -> None:
    name = call[0]
    state.last = answer
    device = state.device_of.get(call[1], "") if len(call) > 1 and isinstance(call[1], str) else ""
    if name in ("close", "munmap", "DEVICE_RESET", "BIND_IOMMUFD", "GROUP_GET_DEVICE_FD") and device == "e1000e":
        state.stale.add(device)
    elif name == "PCI_HOT_RESET" and answer == 0:
        state.stale |= {"edu", "testdev"}
    elif device in state.stale and call[:1] + call[2:] == QUIET[device][-1] and answer == 4:
        state.stale.discard(device)
    makes_file = isinstance(answer, str) and answer[0] in "hv" and answer[1:].isdigit()
    if name == "driver":
        (state.driven.add if answer == "vfio-pci" else state.driven.discard)(call[1])
        return
    if failed(answer) and not makes_file:
        return
    if name in LAYOUTS:
        if name in IOCTLS and not (len(call) > 3 and "request" in call[3]):
            sent = dict(zip(LAYOUTS[name].given, call[2], strict=True))
            IOCTLS[name](state, call[1], sent, {**sent, **changes(answer)[1]})
        elif name == "FEATURE" and makes_file:
            state.files[answer] = "dmabuf"
    elif name in OTHERS:
        OTHERS[name](state, call, answer)


def _open(s: State, call: Call, answer: Any) -> None:
    s.files[answer] = call[1]
    if len(call) > 2:
        s.device_of[answer] = call[2]


def _close(s: State, call: Call, answer: Any) -> None:
    s.forget(call[1])


def _eventfd(s: State, call: Call, answer: Any) -> None:
    s.files[answer] = call[1] if len(call) > 1 else "eventfd"


def _device_fd(s: State, call: Call, answer: Any) -> None:
    s.files[answer] = "device"
    s.device_of[answer] = next(device for device, address in s.addresses.items() if call[2].startswith(address))


def _mmap(s: State, call: Call, answer: Any) -> None:
    s.views.append(answer)
    s.device_of[answer] = s.device_of.get(call[1], "edu")


def _munmap(s: State, call: Call, answer: Any) -> None:
    s.views.remove(call[1])
    s.device_of.pop(call[1])


def _set_iommu(s: State, call: Call, answer: Any) -> None:
    s.types[call[1]] = call[2]
    s.areas[call[1], 0] = []


def _unset(s: State, call: Call, answer: Any) -> None:
    owner = s.owner_of.pop(call[1], "")
    if owner not in s.owner_of.values():
        s.types.pop(owner, None)


def _set_container(s: State, fd: str, sent: dict[str, Any], _: dict[str, Any]) -> None:
    s.owner_of[fd] = sent["fd"]


def _bind(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.files[fd] = "bound"
    s.owner_of[fd] = sent["iommufd"]
    s.objects[sent["iommufd"], got["out_devid"]] = "idev"


def _attach(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.attached[fd] = got["pt_id"]
    s.objects.setdefault((s.owner_of.get(fd, ""), got["pt_id"]), "auto")


def _detach(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.attached.pop(fd, None)


def _ioas(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.objects[fd, got["out_ioas_id"]] = "ioas"


def _hwpt(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.objects[fd, got["out_hwpt_id"]] = "parent" if sent["flags"] & 1 else "paging"


def _destroy(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.objects.pop((fd, sent["id"]), None)
    s.areas.pop((fd, sent["id"]), None)


def _map(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.areas.setdefault((fd, 0), []).append((sent["iova"], sent["size"]))


def _unmap(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    if sent["flags"] & 2:
        s.areas[fd, 0] = []
    elif not sent["flags"] & 4:
        _gone(s, (fd, 0), sent["iova"], sent["size"])


def _ioas_map(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.areas.setdefault((fd, sent["ioas_id"]), []).append((got["iova"], sent["length"]))


def _ioas_unmap(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    _gone(s, (fd, sent["ioas_id"]), sent["iova"], sent["length"])


def _gone(s: State, key: tuple[str, int], iova: int, length: int) -> None:
    areas = s.areas.get(key, [])
    s.areas[key] = [area for area in areas if not (iova <= area[0] and area[0] + area[1] <= iova + length)]


def _fault(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.files[got["out_fault_fd"]] = "fault"
    s.objects[fd, got["out_fault_id"]] = "fault"


def _irqs(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    enabled = s.irqs.setdefault(s.device_of.get(fd, ""), {})
    if sent["flags"] & 0x24 == 0x24:
        enabled[sent["index"]] = max(enabled.get(sent["index"], 0), sent["start"] + sent["count"])
    elif sent["flags"] == 0x21 and not sent["count"]:
        enabled.pop(sent["index"], None)


def _ioeventfd(s: State, fd: str, sent: dict[str, Any], got: dict[str, Any]) -> None:
    key = [sent["flags"], sent["offset"], sent["data"]]
    if sent["fd"] == -1:
        s.registered = [each for each in s.registered if each != (fd, key)]
    else:
        s.registered.append((fd, key))


IOCTLS: Mapping[str, Callable[[State, str, dict[str, Any], dict[str, Any]], None]] = MappingProxyType(
    {
        "GROUP_SET_CONTAINER": _set_container,
        "BIND_IOMMUFD": _bind,
        "ATTACH_PT": _attach,
        "DETACH_PT": _detach,
        "IOAS_ALLOC": _ioas,
        "IOAS_MAP": _ioas_map,
        "IOAS_UNMAP": _ioas_unmap,
        "HWPT_ALLOC": _hwpt,
        "DESTROY": _destroy,
        "FAULT_QUEUE_ALLOC": _fault,
        "MAP_DMA": _map,
        "UNMAP_DMA": _unmap,
        "SET_IRQS": _irqs,
        "IOEVENTFD": _ioeventfd,
    }
)
OTHERS: Mapping[str, Callable[[State, Call, Any], None]] = MappingProxyType(
    {
        "open": _open,
        "close": _close,
        "eventfd": _eventfd,
        "GROUP_GET_DEVICE_FD": _device_fd,
        "mmap": _mmap,
        "munmap": _munmap,
        "SET_IOMMU": _set_iommu,
        "GROUP_UNSET_CONTAINER": _unset,
    }
)
