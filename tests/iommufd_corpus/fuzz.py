# SPDX-License-Identifier: GPL-2.0-only
"""
Coverage-guided fuzzing of the iommufd calls, in process, with atheris (PyPI).

    python -m iommufd_corpus.fuzz [libFuzzer options] [DIRECTORY]    (in tests/; make fuzz)
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["uvfio.linux", "uvfio.uapi"]):
    from iommufd_corpus.fuzz_input import Fuzzer


def main() -> None:
    atheris.Setup(sys.argv, Fuzzer().one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
