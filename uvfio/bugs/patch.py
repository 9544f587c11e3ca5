# SPDX-License-Identifier: GPL-2.0-only
"""Read a bug's patch, and apply it to the source texts of the package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
FIELDS = ("Subject", "Linux", "Scenario", "Finds", "Story")
OPTIONAL = ("Kind",)


class StalePatch(Exception):
    """A patch that does not apply to today's code, or is no patch at all."""


@dataclass(frozen=True)
class Bug:
    """One entry of the catalogue."""

    name: str
    subject: str
    linux: str
    scenario: str
    finds: str
    story: str
    diff: str
    kind: str = "bug"  # "fix": today's Linux has the bug, and the patch takes it out

    def sources(self) -> Mapping[str, str]:
        """The patched text of each file it touches, by its path below the package."""
        texts: dict[str, str] = {}
        for path, hunks in _files(self.name, self.diff):
            texts[path] = _apply(self.name, path, hunks)
        return texts


def load(path: Path) -> Bug:
    """Read one ``NAME.patch``. StalePatch if a field of the header is missing."""
    head, separator, diff = path.read_text(encoding="utf-8").partition("\n--- a/")
    values: dict[str, str] = {}
    field = ""
    for line in head.splitlines():
        key, colon, value = line.partition(": ")
        if line.startswith(" ") and field:
            values[field] += " " + line.strip()
        elif colon and key in FIELDS + OPTIONAL:
            field = key
            values[field] = value.strip()
    missing = [field for field in FIELDS if not values.get(field)]
    if values.get("Kind", "bug") not in ("bug", "fix"):
        raise StalePatch(f"{path.name} must have Kind: bug or fix, not {values['Kind']}")
    if missing or not separator:
        raise StalePatch(f"{path.name} must have {', '.join(missing) or 'a diff'}")
    fields = {key.lower(): value for key, value in values.items()}
    return Bug(name=path.stem, diff="--- a/" + diff, **fields)


def _files(name: str, diff: str) -> Iterator[tuple[str, list[str]]]:
    """Each file of *diff*, as a path below the package and the texts of its hunks."""
    for part in re.split(r"^--- a/uvfio/.*\n", diff, flags=re.MULTILINE)[1:]:
        head, _newline, body = part.partition("\n")
        if not head.startswith("+++ b/uvfio/"):
            raise StalePatch(f"{name}: after --- a/uvfio/... must come +++ b/uvfio/..., not {head!r}")
        yield head.removeprefix("+++ b/uvfio/").strip(), re.split(r"^@@", body, flags=re.MULTILINE)[1:]


def _apply(name: str, path: str, hunks: list[str]) -> str:
    """The text of *path* with every hunk applied, each in the one place that it fits."""
    file = PACKAGE / path
    if not file.exists():
        raise StalePatch(f"{name} must patch a file that exists, not uvfio/{path}")
    text = file.read_text(encoding="utf-8")
    for hunk in hunks:
        title, *lines = hunk.splitlines()
        before = "".join(line[1:] + "\n" for line in lines if not line.startswith("+"))
        after = "".join(line[1:] + "\n" for line in lines if not line.startswith("-"))
        fits = text.count(before)
        if fits != 1:
            raise StalePatch(f"{name} must fit in one place of uvfio/{path}, not in {fits}: @@{title}")
        text = text.replace(before, after)
    return text
