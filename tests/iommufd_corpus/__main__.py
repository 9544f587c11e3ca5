# SPDX-License-Identifier: GPL-2.0-only
"""
The command line, to be run in tests/ (``make corpus`` does):

    python -m iommufd_corpus record      ask the reference kernel again; writes tests/data/iommufd_*
    python -m iommufd_corpus replay      play all sessions in process
    python -m iommufd_corpus live [N]    play every N-th under uvfio run
    python -m iommufd_corpus show SEED   a session in words
    python -m iommufd_corpus shrink SEED the shortest calls found that Linux answers otherwise
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iommufd_corpus import corpus
from iommufd_corpus.inprocess import answers_of, replay
from iommufd_corpus.replay import Mismatch, shown
from iommufd_corpus.shrink import Calls, shrink

ORACLE = corpus.HERE.parent.parent.parent / "shared" / "oracle"
FINDINGS = corpus.FILE.parent / "iommufd_findings.json"


def record() -> int:
    """Sessions during which the kernel complained are left out, and said."""
    kept: list[corpus.Session] = []
    for sessions, complaints in corpus.record(ORACLE, corpus.SEEDS):
        unclean = {int(line.split()[1]) for line in complaints if line.split()[1].isdigit()}
        kept += [session for session in sessions if session["seed"] not in unclean]
        print(f"{len(kept)} sessions, {sum(len(s['answers']) for s in kept)} answers", flush=True)
        print(*complaints, sep="\n", end="\n" if complaints else "")
    corpus.save(kept)
    told = json.loads(corpus.boot(ORACLE, "findings").splitlines()[-1])
    FINDINGS.write_text(json.dumps(told, indent=1) + "\n")
    return 0


def replay_all() -> int:
    found = [mismatch for session in corpus.load() if (mismatch := replay(session)) is not None]
    print(*found, sep="\n\n")
    return bool(found)


def live(step: int) -> int:
    mismatches, answers = run_live(0, step)
    print(*mismatches, f"{answers} answers", sep="\n\n")
    return bool(mismatches)


def run_live(first: int, step: int) -> tuple[list[Mismatch], int]:
    """Every *step*-th session from *first* on under ``uvfio run``: what differs, and how many answers there were."""
    command = [sys.executable, "-m", "uvfio", "run", "--iommufd-test", "--"]
    command += [sys.executable, "-m", "iommufd_corpus.replay", str(first), str(step)]
    done = subprocess.run(command, cwd=corpus.HERE.parent, capture_output=True, text=True, timeout=900)
    if done.returncode or "uvfio:" in done.stderr:
        raise RuntimeError(f"uvfio run must succeed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    sessions = {session["seed"]: session for session in corpus.load()}
    mismatches = [Mismatch(sessions[line["seed"]], line["index"], line["got"]) for line in lines[:-1]]
    return mismatches, int(lines[-1]["answers"])


def ask_linux(candidates: Sequence[Calls]) -> list[list[Any]]:
    """What the reference kernel answers to each list of calls."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(list(candidates), file)
        file.flush()
        name = Path(file.name)
        answers: list[list[Any]] = json.loads(corpus.boot(ORACLE, f"playback {name.name}", name).splitlines()[-1])
        return answers


def shrink_session(seed: int) -> int:
    [session] = [session for session in corpus.load() if session["seed"] == seed]
    mismatch = replay(session)
    if mismatch is None:
        print(f"session {seed} does not differ")
        return 1
    call = session["calls"][mismatch.index]

    def judge(candidates: Sequence[Calls]) -> list[bool]:
        """Is the first answer that differs still one to a call of that name?"""
        if not candidates:
            return []
        print(f"{len(candidates)} candidates of {min(map(len, candidates))} calls and more", flush=True)
        return [_first(c, answers) == call[0] for c, answers in zip(candidates, ask_linux(candidates), strict=True)]

    small = shrink(session["calls"][: mismatch.index + 1], judge)
    print(*(shown(c) for c in small), sep="\n")
    [linux] = ask_linux([small])
    print(f"Linux: {shown(linux[-1])}\nuvfio: {shown(answers_of(small)[-1])}")
    return 0


def _first(calls: Calls, linux: list[Any]) -> str | None:
    """The name of the first call that the stack answers otherwise."""
    ours = answers_of(calls)
    differ = [call[0] for call, a, b in zip(calls, linux, ours, strict=True) if a != b]
    return differ[0] if differ else None


def main(argv: Sequence[str]) -> int:
    match argv:
        case ["record"]:
            return record()
        case ["replay"]:
            return replay_all()
        case ["live", *step]:
            return live(int(step[0]) if step else 1)
        case ["show", seed]:
            [session] = [session for session in corpus.load() if session["seed"] == int(seed)]
            print(
                *(f"{shown(c)} -> {shown(a)}" for c, a in zip(session["calls"], session["answers"], strict=True)),
                sep="\n",
            )
            return 0
        case ["shrink", seed]:
            return shrink_session(int(seed))
    print(__doc__, file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
