# SPDX-License-Identifier: GPL-2.0-only
"""
What Linux 7.3.4 does wrong, as calls that show it: docs/vfio-corpus.md tells the story.

    python3.11 -m vfio_corpus.findings

runs in the reference kernel and prints a JSON object: what it answered to the calls of
each finding and of each difference of the device models (``differences.py``) that its
machine has, and the first line of each warning that it printed meanwhile.
"""

from __future__ import annotations

import json
from typing import Any

from corpus.recording import KernelLog

from vfio_corpus.bench import PORT, ROOT
from vfio_corpus.differences import BEHIND_A_PORT, CONFIG, DIFFERENCES, by_cdev
from vfio_corpus.playback import play_all
from vfio_corpus.record import CHATTER, reference

PAGE = 4096
IOVA = 0x10_0000


def bitmap(iova: int, pages: int) -> list[Any]:
    words = [iova, pages * PAGE, PAGE, 8, "X+0"]
    return ["DIRTY_PAGES", "h1", [4], {"size": 48, "words": words, "out": 16}]


FINDINGS: dict[str, list[Any]] = {
    "dirty_beyond_the_mapping": [
        ["open", "container"],
        ["open", "group", "edu"],
        ["GROUP_SET_CONTAINER", "h2", ["h1"]],
        ["SET_IOMMU", "h1", 3],
        ["GROUP_GET_DEVICE_FD", "h2", ROOT["edu"]],
        ["MAP_DMA", "h1", [3, "S+0", IOVA, 4 * PAGE]],
        ["DIRTY_PAGES", "h1", [1]],
        bitmap(IOVA - 8 * PAGE, 16),  # pages 8 to 11 are dirty
        bitmap(IOVA, 16),  # and now also those that are not mapped
    ],
    "decodes_after_d3hot": [
        *by_cdev("e1000e"),
        ["pwrite", "h2", CONFIG, 0xCC, "0300"],  # D3hot
        ["pwrite", "h2", CONFIG, 4, "0000"],
        ["pwrite", "h2", CONFIG, 0xCC, "0000"],
        ["pread", "h2", CONFIG, 4, 2],  # what it was before D3hot: memory decodes
        ["pread", "h2", 0, 0x8, 4],
    ],
}


def main() -> None:
    bench, log = reference(), KernelLog(CHATTER)
    told = {}
    behind = bench.addresses is PORT
    asked = {} if behind else dict(FINDINGS)
    for name, (_why, calls) in (BEHIND_A_PORT if behind else DIFFERENCES).items():
        asked[name] = calls
    for name, calls in asked.items():
        answers = play_all(bench, calls)
        warnings = [line.split(", CPU")[0] for line in log.read() if line.startswith("WARNING")]
        told[name] = {"answers": answers, "kernel": warnings}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
