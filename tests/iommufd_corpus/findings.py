# SPDX-License-Identifier: GPL-2.0-only
"""
What Linux 7.3.4 does wrong, as calls that show it: docs/iommufd-corpus.md tells the story.

    python3.11 -m iommufd_corpus.findings

runs in the reference kernel and prints a JSON object: what it answered to the calls of
each finding, and the first line of each warning that it printed meanwhile.
"""

from __future__ import annotations

import json
from typing import Any

from corpus.recording import KernelLog
from corpus.system import RealSystem

from iommufd_corpus.gen_hwpt import MOCK
from iommufd_corpus.play import Player
from iommufd_corpus.state import A0, HALF, PAGE

MIB = 1 << 20
FIXED, WRITEABLE, READABLE = 1, 2, 4
RW = FIXED | WRITEABLE | READABLE


def hwpt(flags: int, idev: int, under: int, fault: int = 0) -> list[Any]:
    return ["HWPT_ALLOC", [flags, idev, under, 0, 0, 0, 0, 0, fault, 0]]


def bitmap(iova: int, length: int, no_clear: int) -> list[Any]:
    return ["HWPT_GET_DIRTY_BITMAP", [5, no_clear, 0, iova, length, HALF, "X+0"], {"out": 64}]


START: list[Any] = [["open"], ["IOAS_ALLOC", [0, 0]], ["MOCK_DOMAIN_FLAGS", [1, 0, 0, 0, 0, 4]]]
# IOAS 1, device 2 (bound as 3) on the page table 4; then 5 tracks what is dirty.
SOILED: list[Any] = [
    *START,
    hwpt(2, 3, 1),
    ["HWPT_SET_DIRTY_TRACKING", [1, 5, 0]],
    ["IOAS_MAP", [RW, 1, 0, "H+0", MIB, 20 * MIB]],
    ["DIRTY", [5, 0, 0, 0, 20 * MIB, 8 * HALF, HALF, "X+0", 0], {"in": "01"}],
]
VIOMMU: list[Any] = [
    *START,
    hwpt(1, 3, 1),
    ["VIOMMU_ALLOC", [0, MOCK, 3, 5, 0, 0, 0, 0]],
    ["IOAS_MAP", [RW, 1, 0, "S+0", 4 * PAGE, A0]],
]

# Those that leave the kernel in disorder come last.
FINDINGS: dict[str, list[Any]] = {
    "dirty_beyond_the_range": [*SOILED, bitmap(20 * MIB, 8 * HALF, 1)],
    "dirty_is_lost": [
        *SOILED,
        bitmap(20 * MIB + 8 * HALF, 8 * HALF, 0),  # in the middle of a dirty leaf
        bitmap(20 * MIB, 8 * HALF, 1),
    ],
    "cookie_zero": [
        *START,
        ["FAULT_QUEUE_ALLOC", [0, 0, 0]],
        hwpt(4, 3, 1, 5),
        ["MOCK_DOMAIN_REPLACE", [2, 0, 6]],
        ["TRIGGER_IOPF", [0, 0, 3, 0, 1, 1, 0]],
        ["read", "h1", 40],
        ["write", "h1", "0000000000000000"],  # nothing is answered, and yet
        ["TRIGGER_IOPF", [0, 0, 3, 0, 1, 1, 0]],
        ["read", "h1", 40],
    ],
    "queue_index": [
        *VIOMMU,
        ["HW_QUEUE_ALLOC", [0, 6, MOCK, 0, 0, A0, PAGE]],
        ["HW_QUEUE_ALLOC", [0, 6, MOCK, 1, 0, A0 + PAGE, PAGE]],
        ["DESTROY", [9]],
        ["HW_QUEUE_ALLOC", [0, 6, MOCK, 1, 0, A0 + PAGE, PAGE]],
        ["HW_QUEUE_ALLOC", [0, 6, MOCK, 0, 0, A0 + PAGE, PAGE]],
    ],
    "invalidate_large": [*VIOMMU, ["HWPT_INVALIDATE", [6, "X+0", MOCK, 12, 1 << 19, 0]]],
    "map_without_rights": [
        *START,
        ["VFIO_IOAS", [1, 1, 0]],
        ["VFIO_MAP_DMA", [0, "S+0", A0, PAGE]],
    ],
    "maps_itself": [
        *START,
        ["IOAS_MAP", [RW, 1, 0, "S+0", PAGE, A0]],
        ["IOAS_ALLOC", [0, 0]],
        ["IOAS_MAP_FILE", [RW, 5, "i", 0, PAGE, A0]],
        ["close", "i"],
        ["vmpin"],
        ["open"],
        ["MD_CHECK_REFS", [0, 0, PAGE, "S+0", 0]],
    ],
    "device_with_pasid": [
        *START,
        hwpt(8, 3, 1),
        ["MOCK_DOMAIN_REPLACE", [2, 0, 5]],
        ["PASID_ATTACH", [2, 0, 1, 5]],
        ["DESTROY", [2]],
    ],
}
# Not in the model: it breaks the loop of references, and does not let a device go astray.
OTHERWISE = frozenset({"maps_itself", "device_with_pasid"})


def main() -> None:
    system, log = RealSystem(scatter=True), KernelLog()
    told = {}
    for name, calls in FINDINGS.items():
        player = Player(system, huge=True)
        answers = [player.play(call) for call in calls]
        for file in [*player.files]:
            if file.startswith(("i", "h")):
                player.play(["close", file])
        player.close()
        warnings = [line.split(", CPU")[0] for line in log.read() if line.startswith("WARNING")]
        told[name] = {"answers": answers, "kernel": warnings}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
