# SPDX-License-Identifier: GPL-2.0-only
"""What an answer teaches the generator: one function for each call that makes or ends something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from corpus.choices import changes, failed

from iommufd_corpus.state import Area, Call, State
from iommufd_corpus.wire import LAYOUTS


def learn(state: State, call: Call, answer: Any) -> None:
    name = call[0]
    if name in ("PASID_ATTACH", "PASID_REPLACE"):
        # Whatever is answered: it may have failed after the attachment was made.
        state.pasids.setdefault(call[1][0], {}).setdefault(call[1][2], call[1][3])
    if failed(answer) and name not in ("mmap",):
        return
    if name in LAYOUTS and not (len(call) > 2 and "request" in call[2]):
        layout = LAYOUTS[name]
        sent = dict(zip(layout.given, call[1], strict=True))
        _result, changed = changes(answer)
        if name in IOCTLS:
            IOCTLS[name](state, sent, {**sent, **changed})
    elif name in OTHERS:
        OTHERS[name](state, call, answer)


def _destroy(s: State, sent: dict[str, Any], _: dict[str, Any]) -> None:
    s.remove(sent["id"])


def _ioas(s: State, _: dict[str, Any], got: dict[str, Any]) -> None:
    s.add(got["out_ioas_id"], "ioas")
    s.areas[got["out_ioas_id"]] = []


def _map(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    where = sent["user_va"]
    buffer, _plus, offset = where.partition("+") if isinstance(where, str) else ("0", "+", "0")
    s.areas.setdefault(sent["ioas_id"], []).append(Area(got["iova"], sent["length"], buffer, int(offset)))


def _map_file(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    buffer = "F" if sent["fd"] == "memfd" else "0"
    start = sent["start"] if buffer == "F" else 0
    s.areas.setdefault(sent["ioas_id"], []).append(Area(got["iova"], sent["length"], buffer, start))


def _copy(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    for area in s.areas.get(sent["src_ioas_id"], []):
        if area.iova <= sent["src_iova"] < area.iova + area.length:
            offset = area.offset + sent["src_iova"] - area.iova
            new = Area(got["dst_iova"], sent["length"], area.buffer, offset)
            s.areas.setdefault(sent["dst_ioas_id"], []).append(new)
            return


def _unmap(s: State, sent: dict[str, Any], _: dict[str, Any]) -> None:
    s.unmapped(sent["ioas_id"], sent["iova"], sent["length"])


def _hwpt(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    under = s.kinds.get(sent["pt_id"])
    kind = "paging" if under == "ioas" else "nested"
    bits = sent["flags"]
    s.add(got["out_hwpt_id"], kind, pt=sent["pt_id"], flags=bits, fault=sent["fault_id"] if bits & 4 else 0)
    if kind == "paging" and bits & 1:
        s.kinds[got["out_hwpt_id"]] = "parent"


def _mock(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.add(got["out_stdev_id"], "stdev", pasid=bool(sent.get("dev_flags", 0) & 4), at=got["out_hwpt_id"])
    s.add(got["out_idev_id"], "idev", stdev=got["out_stdev_id"])
    _attached(s, sent["id"], got["out_hwpt_id"])


def _attached(s: State, asked: int, hwpt: int) -> None:
    if s.kinds.get(asked) == "ioas" and hwpt not in s.kinds:
        s.add(hwpt, "auto", pt=asked, flags=0)


def _replace(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    _attached(s, sent["pt_id"], got["pt_id"])
    s.info[sent["id"]]["at"] = got["pt_id"]


def _viommu(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.add(got["out_viommu_id"], "viommu", pt=sent["hwpt_id"])
    data = bytes.fromhex(got["X"]) if ":" not in got.get("X", ":") else b""
    if len(data) >= 24 and sent["data_len"] >= 24:
        view = (int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little"))
        s.regions.append(view)
        s.info[got["out_viommu_id"]]["view"] = view


def _vdevice(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.add(got["out_vdevice_id"], "vdevice", idev=sent["dev_id"], virt=sent["virt_id"], viommu=sent["viommu_id"])


def _hw_queue(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.add(got["out_hw_queue_id"], "hw_queue", viommu=sent["viommu_id"])


def _fault(s: State, _: dict[str, Any], got: dict[str, Any]) -> None:
    s.add(got["out_fault_id"], "fault", file=got["out_fault_fd"])
    s.files[got["out_fault_fd"]] = "fault"


def _veventq(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.add(got["out_veventq_id"], "veventq", viommu=sent["viommu_id"])
    s.files[got["out_veventq_fd"]] = "veventq"


def _access(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.files[got["out_access_fd"]] = "access"
    s.items[got["out_access_fd"]] = []
    s.info[-len(s.items)] = {"file": got["out_access_fd"], "ioas": sent["id"]}


def _pages(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.items.setdefault(sent["id"], []).append(got["out_access_pages_id"])


def _move(s: State, sent: dict[str, Any], _: dict[str, Any]) -> None:
    for info in s.info.values():
        if "ioas" in info and info.get("file") == sent["id"]:
            info["ioas"] = sent["ioas_id"]


def _dmabuf(s: State, _: dict[str, Any], got: dict[str, Any]) -> None:
    s.files[got["fd"]] = "dmabuf"


def _open(s: State, call: Call, answer: Any) -> None:
    s.files["i"] = "iommufd"


def _vfio_ioas(s: State, sent: dict[str, Any], _: dict[str, Any]) -> None:
    s.compat = {1: True, 2: False}.get(sent["op"], s.compat)


def _pasid(s: State, sent: dict[str, Any], got: dict[str, Any]) -> None:
    s.pasids[sent["id"]][sent["pasid"]] = got["pt_id"]


def _iopf(s: State, sent: dict[str, Any], _: dict[str, Any]) -> None:
    stdev = s.info.get(sent["dev_id"], {}).get("stdev", 0)
    hwpt = s.pasids.get(stdev, {}).get(sent["pasid"]) or s.info.get(stdev, {}).get("at")
    fault = s.info.get(s.info.get(hwpt or 0, {}).get("fault", 0), {})
    s.pending += [fault["file"]] if "file" in fault else []


def _detach(s: State, sent: dict[str, Any], _: dict[str, Any]) -> None:
    s.pasids.get(sent["id"], {}).pop(sent["pasid"], None)


def _close(s: State, call: Call, answer: Any) -> None:
    s.files.pop(call[1], None)
    if call[1] == "i":
        s.compat = False
        s.kinds.clear()
        s.areas.clear()
        s.regions.clear()


def _mmap(s: State, call: Call, answer: Any) -> None:
    if str(answer).startswith("v"):
        s.views.append(answer)


def _munmap(s: State, call: Call, answer: Any) -> None:
    s.views.remove(call[1])


def _read(s: State, call: Call, answer: Any) -> None:
    s.pending = [name for name in s.pending if name != call[1]]
    if s.files.get(call[1]) == "fault" and answer:
        raw = answer[1] if ":" not in answer[1] else ""
        s.cookies += [int.from_bytes(bytes.fromhex(raw[n + 72 : n + 80]), "little") for n in range(0, len(raw), 80)]


def _write(s: State, call: Call, answer: Any) -> None:
    raw = bytes.fromhex(call[2])[: answer or 0]
    answered = {int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 8)}
    s.cookies = [cookie for cookie in s.cookies if cookie not in answered]


def _drop(s: State, call: Call, answer: Any) -> None:
    s.dropped.add(call[1])


def _fresh(s: State, call: Call, answer: Any) -> None:
    s.dropped.discard(call[1])


IOCTLS: Mapping[str, Callable[[State, dict[str, Any], dict[str, Any]], None]] = MappingProxyType(
    {
        "DESTROY": _destroy,
        "IOAS_ALLOC": _ioas,
        "IOAS_MAP": _map,
        "IOAS_MAP_FILE": _map_file,
        "IOAS_COPY": _copy,
        "IOAS_UNMAP": _unmap,
        "HWPT_ALLOC": _hwpt,
        "MOCK_DOMAIN": _mock,
        "MOCK_DOMAIN_FLAGS": _mock,
        "MOCK_DOMAIN_REPLACE": _replace,
        "VIOMMU_ALLOC": _viommu,
        "VDEVICE_ALLOC": _vdevice,
        "HW_QUEUE_ALLOC": _hw_queue,
        "FAULT_QUEUE_ALLOC": _fault,
        "VEVENTQ_ALLOC": _veventq,
        "CREATE_ACCESS": _access,
        "ACCESS_PAGES": _pages,
        "ACCESS_REPLACE_IOAS": _move,
        "DMABUF_GET": _dmabuf,
        "VFIO_IOAS": _vfio_ioas,
        "PASID_ATTACH": _pasid,
        "PASID_REPLACE": _pasid,
        "PASID_DETACH": _detach,
        "TRIGGER_IOPF": _iopf,
    }
)
OTHERS: Mapping[str, Callable[[State, Call, Any], None]] = MappingProxyType(
    {
        "open": _open,
        "close": _close,
        "mmap": _mmap,
        "munmap": _munmap,
        "read": _read,
        "write": _write,
        "drop": _drop,
        "fresh": _fresh,
    }
)
