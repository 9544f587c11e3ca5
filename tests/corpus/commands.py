# SPDX-License-Identifier: GPL-2.0-only
"""
The command line of a corpus, to be run in tests/:

    python -m PACKAGE record      ask the reference kernel again; writes tests/data/
    python -m PACKAGE replay      play all sessions in process
    python -m PACKAGE live [N]    play every N-th under uvfio run
    python -m PACKAGE show SEED   a session in words
    python -m PACKAGE shrink SEED the shortest calls found that Linux answers otherwise
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.replaying import Mismatch, shown
from corpus.sessions import DATA, TESTS, Corpus, Session
from corpus.shrink import Calls, Making, shrink

ORACLE = TESTS.parent.parent / "shared" / "oracle"


@dataclass(frozen=True)
class Commands:
    """
    *replay* plays a session in process and *answers_of* any calls; *machines* are the options of
    ``uvfio run`` that make each machine of the corpus, *making* says what calls make.
    """

    corpus: Corpus
    replay: Callable[[Session], Mismatch | None]
    answers_of: Callable[[Calls], list[Any]]
    machines: tuple[tuple[str, ...], ...]
    findings: str
    making: Making

    def main(self, argv: Sequence[str]) -> int:
        match argv:
            case ["record"]:
                return self.record()
            case ["replay"]:
                return self.replay_all()
            case ["live", *step]:
                return self.live(int(step[0]) if step else 1)
            case ["show", seed]:
                session = self.corpus.session(int(seed))
                answered = zip(session["calls"], session["answers"], strict=True)
                print(*(f"{shown(c)} -> {shown(a)}" for c, a in answered), sep="\n")
                return 0
            case ["shrink", seed]:
                return self.shrink_session(int(seed))
        print((__doc__ or "").replace("PACKAGE", self.corpus.package), file=sys.stderr)
        return 64

    def record(self) -> int:
        """Sessions during which the kernel complained are left out, and said."""
        kept: list[Session] = []
        for sessions, complaints in self.corpus.record_all(ORACLE):
            unclean = {int(line.split()[1]) for line in complaints if line.split()[1].isdigit()}
            kept += [session for session in sessions if session["seed"] not in unclean]
            print(f"{len(kept)} sessions, {sum(len(s['answers']) for s in kept)} answers", flush=True)
            print(*complaints, sep="\n", end="\n" if complaints else "")
        self.corpus.save(kept)
        told = {}
        for seeds, _machine in self.corpus.machines:
            told.update(json.loads(self.corpus.run(ORACLE, "findings", seed=seeds.start).splitlines()[-1]))
        (DATA / self.findings).write_text(json.dumps(told, indent=1) + "\n")
        return 0

    def replay_all(self) -> int:
        found = [mismatch for session in self.corpus.load() if (mismatch := self.replay(session)) is not None]
        print(*found, sep="\n\n")
        return bool(found)

    def live(self, step: int) -> int:
        mismatches, answers = self.run_live(0, step)
        print(*mismatches, f"{answers} answers", sep="\n\n")
        return bool(mismatches)

    def run_live(self, first: int, step: int) -> tuple[list[Mismatch], int]:
        """Every *step*-th session from *first* on under ``uvfio run``: what differs, and the number of answers."""
        sessions = {session["seed"]: session for session in self.corpus.load()}
        mismatches, answers = [], 0
        for machine in self.machines:
            *lines, last = self._play_live(machine, first, step)
            mismatches += [Mismatch(sessions[line["seed"]], line["index"], line["got"]) for line in lines]
            answers += last["answers"]
        return mismatches, answers

    def _play_live(self, machine: Sequence[str], first: int, step: int) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "uvfio", "run", *machine, "--"]
        command += [sys.executable, "-m", f"{self.corpus.package}.replay", str(first), str(step)]
        done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=900)
        if done.returncode or "uvfio:" in done.stderr:
            raise RuntimeError(f"uvfio run must succeed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def ask_linux(self, seed: int, candidates: Sequence[Calls]) -> list[list[Any]]:
        """What the reference kernel answers to each list of calls, on the machine of session *seed*."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(list(candidates), file)
            file.flush()
            name = Path(file.name)
            printed = self.corpus.run(ORACLE, f"playback {name.name}", name, seed)
            answers: list[list[Any]] = json.loads(printed.splitlines()[-1])
            return answers

    def shrink_session(self, seed: int) -> int:
        session = self.corpus.session(seed)
        mismatch = self.replay(session)
        if mismatch is None:
            print(f"session {seed} does not differ")
            return 1
        call = session["calls"][mismatch.index]

        def judge(candidates: Sequence[Calls]) -> list[bool]:
            """Is the first answer that differs still one to a call of that name?"""
            if not candidates:
                return []
            print(f"{len(candidates)} candidates of {min(map(len, candidates))} calls and more", flush=True)
            asked = zip(candidates, self.ask_linux(seed, candidates), strict=True)
            return [self._first(c, answers) == call[0] for c, answers in asked]

        small = shrink(session["calls"][: mismatch.index + 1], judge, self.making)
        print(*(shown(c) for c in small), sep="\n")
        [linux] = self.ask_linux(seed, [small])
        print(f"Linux: {shown(linux[-1])}\nuvfio: {shown(self.answers_of(small)[-1])}")
        return 0

    def _first(self, calls: Calls, linux: list[Any]) -> str | None:
        """The name of the first call that the stack answers otherwise."""
        differ = [call[0] for call, a, b in zip(calls, linux, self.answers_of(calls), strict=True) if a != b]
        return differ[0] if differ else None
