"""Disks that are full, refuse, or lie: one clear line, nothing half-written, and the newest good checkpoint is used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from commandline import ORWCFM, POINTS, here, rounds, same, tensors
from orwcfm_core.checkpoint import newest_checkpoint

RUN = (*POINTS, "--reward", "component", "--set", "train.checkpoint_every=1")


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with a view of the file system of its own, where it may mount."""
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount anything: neither root nor user namespaces")
    script = script.replace("ORWCFM", ORWCFM).replace("RUN", " ".join(RUN))
    done = subprocess.run([*unshare, "sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rounds with checkpoints 3 and 4, and the best one."""
    folder = tmp_path_factory.mktemp("done") / "run"
    here(*RUN, "--rounds", 4, "--out", folder, code=0)
    return folder


@pytest.fixture
def run(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, named from its own folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done, "run")
    return Path("run")


def test_a_full_disk_ends_the_run_and_more_room_lets_it_go_on(tmp_path):
    done = shell(
        """
        mkdir disk; mount -t tmpfs -o size=500k tmpfs disk || exit 99
        ORWCFM RUN --rounds 30 --set train.keep=20 --out disk/run; echo $?
        find disk -name '.[!.]*' ! -name .lock
        mount -o remount,size=50m disk
        ORWCFM resume disk/run --set train.keep=2 >/dev/null; echo $?
        cp -r disk/run kept
        """,
        tmp_path,
    )
    # Nothing is printed between the two exit codes: no temporary file was left.
    assert done.stdout.split() == ["1", "0"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "error: cannot write checkpoint disk/run/checkpoints/round_00" in errors[0]
    assert "MiB are needed" in errors[0] or "No space left" in errors[0]
    shell("ORWCFM RUN --rounds 30 --out whole", tmp_path)
    assert same(tmp_path / "kept", tmp_path / "whole")


def test_a_write_that_fails_half_way_ends_the_run(tmp_path):
    # The room that is seen beforehand is no promise: here a file may not grow beyond 16 KiB.
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 32; exec {ORWCFM} {' '.join(RUN)} --rounds 3 --out run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write checkpoint run/checkpoints/round_0000: ")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_metrics_that_cannot_be_written_are_named(tmp_path, run):
    limit = max(path.stat().st_size for path in Path("run/checkpoints").rglob("*.*")) // 512 + 2
    whole = (run / "metrics.jsonl").read_bytes()
    script = f"ulimit -f {limit}; exec {ORWCFM} resume run --rounds 400 --set train.checkpoint_every=400"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "error: run/metrics.jsonl: File too large"
    # The last line was cut off in the middle, and does no harm.
    assert not (run / "metrics.jsonl").read_bytes().endswith(b"\n")
    assert (run / "metrics.jsonl").read_bytes().startswith(whole[: whole.rindex(b'"seconds"')])
    here("resume", run, "--rounds", 6, code=0)
    assert [row["round"] for row in rounds(run)] == [1, 2, 3, 4, 5, 6]


def test_a_read_only_folder_is_refused_and_stays_as_it_is(tmp_path, run):
    done = shell(
        """
        mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" || exit 99
        ORWCFM resume run --rounds 9; echo $?
        ORWCFM sample run; echo $?
        ORWCFM report run; echo $?
        ORWCFM RUN --out other; echo $?
        """,
        tmp_path,
    )
    assert done.stdout.split() == ["1", "1", "1", "2"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert errors == [
        "error: run/.lock: Read-only file system",
        "error: run/sample.png: Read-only file system",
        "error: run/report.html: Read-only file system",
        f"error: cannot make run folder other: {tmp_path} cannot be written to",
    ]
    assert newest_checkpoint(run / "checkpoints").name == "round_0004"


def checkpoints(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def damage(checkpoint: Path, how: str) -> None:
    policy, manifest = checkpoint / "policy.safetensors", checkpoint / "manifest.json"
    data = bytearray(policy.read_bytes())
    match how:
        case "truncated":
            policy.write_bytes(data[: len(data) // 2])
        case "empty":
            policy.write_bytes(b"")
        case "altered":
            data[-100] ^= 1
            policy.write_bytes(data)
        case "missing":
            (checkpoint / "training.safetensors").unlink()
        case "state":
            (checkpoint / "state.json").write_text('{"round": 400}')
        case "no manifest":
            manifest.unlink()
        case "manifest of nothing":
            manifest.write_text('{"round": 4, "quality": 9, "sha256": {}}')
        case "manifest of less":
            about = json.loads(manifest.read_text())
            del about["sha256"]["policy.safetensors"]
            manifest.write_text(json.dumps(about))
        case "manifest is a list":
            manifest.write_text("[1, 2]")
        case "manifest is deep":
            manifest.write_text("[" * 100_000)
        case "a file":
            shutil.rmtree(checkpoint)
            checkpoint.write_text("a checkpoint")


DAMAGES = (
    *("truncated", "empty", "altered", "missing", "state", "no manifest"),
    *("manifest of nothing", "manifest of less", "manifest is a list", "manifest is deep", "a file"),
)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_all_ends_the_same(run, done, how):
    damage(run / "checkpoints" / "round_0004", how)
    said = here("resume", run, code=0).err
    assert "round_0004 is passed over" in said
    assert "from round 3" in said
    assert same(run, done)
    assert checkpoints(run) == checkpoints(done) >= {"round_0003", "round_0004"}


@pytest.mark.parametrize("how", DAMAGES)
def test_nothing_to_go_on_from_is_one_line(run, how):
    for checkpoint in list((run / "checkpoints").iterdir()):
        damage(checkpoint, how)
    lines = (run / "metrics.jsonl").read_bytes()
    for command in ("resume", "sample"):
        done = here(command, run, code=2)
        assert done.errors == ["error: no intact checkpoint in run/checkpoints: nothing to go on from; start a new run"]
    assert (run / "metrics.jsonl").read_bytes() == lines
    here("report", run, code=0)


def test_resume_takes_the_micro_batch_that_is_asked_for_or_else_the_one_that_fitted(run):
    def micro_batch() -> int:
        return json.loads((newest_checkpoint(run / "checkpoints") / "state.json").read_text())["micro_batch"]

    here("resume", run, "--rounds", 5, "--set", "train.micro_batch=32", code=0)
    assert micro_batch() == 32
    here("resume", run, "--rounds", 6, code=0)
    assert micro_batch() == 32


def test_a_damaged_checkpoint_never_pushes_out_a_good_one(run):
    # One is kept, besides the best: were a damaged one taken for the newest, the good one would go.
    best = checkpoints(run) - {"round_0003", "round_0004"}
    damage(run / "checkpoints" / "round_0004", "altered")
    shutil.copytree(run / "checkpoints" / "round_0004", run / "checkpoints" / "round_0009")
    here("resume", run, "--set", "train.keep=1", "--rounds", 5, code=0)
    assert checkpoints(run) <= {"round_0003", "round_0005"} | best
    assert len(checkpoints(run)) <= 2
    assert newest_checkpoint(run / "checkpoints").name == "round_0005"


def test_saving_what_is_there_already_never_removes_it_in_between(run, monkeypatch):
    # As after Ctrl-C: the checkpoint of the last round is written again. It must be there at every moment.
    newest, seen = run / "checkpoints" / "round_0004", []
    replace = os.replace

    def watching(*args, **options):
        seen.append(newest_checkpoint(run / "checkpoints").name)
        return replace(*args, **options)

    before = tensors(run)
    monkeypatch.setattr(os, "replace", watching)
    monkeypatch.setattr(Path, "rename", lambda *args: pytest.fail("the checkpoint was moved away"))
    here("resume", run, "--set", "train.keep=1", "--set", "train.eval_samples=8", code=0)
    assert set(seen) == {"round_0004"}
    assert newest.exists()
    assert tensors(run).keys() == before.keys()


def test_what_a_killed_process_left_is_cleared_away(run):
    for name in (".metrics.jsonl.999999999.tmp", "samples/.round_0004.png.999999999.tmp", "checkpoints/.round_0004.7"):
        (run / name).mkdir() if "checkpoints" in name else (run / name).write_text("half")
    other = run / ".report.html.1.tmp"
    other.write_text("of a process that lives")
    here("resume", run, "--rounds", 5, code=0)
    assert [path for path in run.rglob(".*") if path.name != ".lock"] == [other]


def test_killed_before_the_first_checkpoint_starts_from_the_beginning(run, done):
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    (run / "reference.json").unlink()
    here("resume", run, code=0)
    assert same(run, done)
    assert (run / "reference.json").read_bytes() == (done / "reference.json").read_bytes()


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"round": 1}', '{"round": "2"}', '{"round": true}', "{}", "\xff"])
def test_metrics_that_somebody_edited_are_named_and_kept(run, line):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1] = line
    edited = ("\n".join(lines) + "\n").encode("latin-1")
    (run / "metrics.jsonl").write_bytes(edited)
    done = here("resume", run, code=2)
    assert done.errors == ["error: run/metrics.jsonl is damaged: expected the metrics of a later round in line 2"]
    assert (run / "metrics.jsonl").read_bytes() == edited
    here("report", run, code=0)


def test_missing_metrics_are_said(run):
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines(keepends=True)[0])
    assert (
        "metrics.jsonl has no line of 3 of the rounds that are done" in here("resume", run, "--rounds", 5, code=0).err
    )
    assert [row["round"] for row in rounds(run)] == [1, 5]
    here("resume", run, "--rounds", 6, code=0)
    assert [row["round"] for row in rounds(run)] == [1, 5, 6]


def test_rounds_that_are_done_are_not_undone(run):
    assert here("resume", run, "--rounds", 3, code=2).errors == [
        "error: train.rounds: expected at least the 4 that are done, got 3"
    ]
    assert (run / "final.json").exists()
