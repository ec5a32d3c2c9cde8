"""Ctrl-C, SIGTERM and SIGKILL, and two processes on one run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import ORWCFM, POINTS, rounds, same
from orwcfm_core.checkpoint import newest_checkpoint

ROOT = Path(__file__).parents[1]
LONG = (*POINTS, "--reward", "component", "--rounds", "100000")

# A reward that waits until it is allowed to go on, so that a test knows in what it interrupts a run.
GATE = "\n        ".join(
    (
        "import os, time",
        "self.calls = getattr(self, 'calls', 0) + 1",
        "open(f'call-{self.calls}', 'w').close()",
        "while self.calls > 1 and not os.path.exists('open'): time.sleep(0.01)",
        "return Scores(images.flatten(1).mean(1))",
    )
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line in an empty folder; what is left of it at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*args: object, **env: str) -> subprocess.Popen[str]:
        with (tmp_path / f"said-{len(started)}").open("w") as said:
            process = subprocess.Popen(
                [ORWCFM, *map(str, args)],
                cwd=tmp_path,
                env={**os.environ, **env},
                stdout=subprocess.DEVNULL,
                stderr=said,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def until(met: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def lines(run: Path) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b"\n") if (run / "metrics.jsonl").exists() else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_round_end_and_saves(start, tmp_path, number, code):
    run = tmp_path / "run"
    child = start(*LONG, "--out", "run")
    until(lambda: lines(run) >= 3, child)
    child.send_signal(number)
    assert child.wait(60) == code
    said = (tmp_path / "said-0").read_text()
    assert "go on with: orwcfm resume run" in said
    assert "Traceback" not in said
    assert newest_checkpoint(run / "checkpoints").name == f"round_{len(rounds(run)):04d}"
    assert (run / "report.html").exists()
    assert [path for path in run.rglob(".*") if path.name != ".lock"] == []


def test_a_second_signal_ends_at_once_and_loses_no_checkpoint(start, plugin, tmp_path):
    args = (
        *POINTS,
        "--reward",
        "gate",
        "--rounds",
        4,
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "heldout.name=none",
    )
    env = plugin("gate", GATE)
    child = start(*args, "--out", "run", **env)
    until((tmp_path / "call-2").exists, child)
    child.send_signal(signal.SIGTERM)
    until(lambda: "round 1 is finished and saved first" in (tmp_path / "said-0").read_text(), child)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    # The code is the first one's: it is what somebody wanted.
    assert child.wait(60) == 143
    said = (tmp_path / "said-0").read_text()
    assert "stopped at once" in said
    assert "Traceback" not in said
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").name == "round_0000"

    (tmp_path / "open").touch()
    assert start("resume", "run", **env).wait(120) == 0
    assert start(*args, "--out", "whole", **env).wait(120) == 0
    assert same(tmp_path / "run", tmp_path / "whole")


def test_a_second_process_is_refused_and_the_first_is_not_disturbed(start, tmp_path):
    run = tmp_path / "run"
    first = start(*LONG, "--out", "run")
    until(lambda: lines(run) >= 2, first)
    before = lines(run)
    second = start("resume", "run")
    assert second.wait(60) == 2
    assert (tmp_path / "said-1").read_text() == (
        f"error: run folder run is in use by process {first.pid}; wait for it to end, or stop it first\n"
    )
    until(lambda: lines(run) >= before + 3, first)
    done = [row["round"] for row in rounds(run)]
    assert done == list(range(1, len(done) + 1))
    first.kill()
    first.wait()
    third = start("resume", "run")
    # A line of its own: before that, it may not have heard of signals yet.
    until(lambda: "round " in (tmp_path / "said-2").read_text().partition("from round")[2], third)
    third.send_signal(signal.SIGTERM)
    assert third.wait(60) == 143


def test_runs_that_start_at_the_same_time_get_folders_of_their_own(start, tmp_path):
    children = [start(*POINTS, "--reward", "component", "--rounds", 2) for _ in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    made = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert made == ["component-w2-001", "component-w2-002", "component-w2-003"]
    assert all((tmp_path / "runs" / name / "final.json").exists() for name in made)


def test_an_ignored_interrupt_stays_ignored(tmp_path, start):
    # As for what a shell script starts in the background: Ctrl-C is not meant for it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = start(*LONG, "--out", "run")
    finally:
        signal.signal(signal.SIGINT, before)
    run = tmp_path / "run"
    until(lambda: lines(run) >= 1, child)
    child.send_signal(signal.SIGINT)
    seen = lines(run)
    until(lambda: lines(run) >= seen + 3, child)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_as_if_never_interrupted():
    script = ROOT / "benchmarks" / "kill_resume.py"
    args = [sys.executable, str(script), "--kills", "20", "--seed", "0", "--variant", "several"]
    done = subprocess.run(args, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["different"] == []
    assert found["kills"] == 20
    assert found["while_writing"] >= 3
    assert found["invalid"] > 0
