"""Sweeps end to end: real runs, killed, interrupted, failing, grown."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from browser import measured_in_a_browser
from commandline import ORWCFM
from orwcfm_cli.options import read_toml
from orwcfm_cli.sweep_folder import Plan, resolve_all
from orwcfm_cli.sweep_grid import Grid
from test_run import GMM, checkpoint, metrics, metrics_so_far, without_times

SMALL = (*GMM, "--set", "train.eval_samples=64")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *args: object) -> subprocess.Popen[str]:
    command = [ORWCFM, "sweep", *SMALL, *map(str, args)]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)


def wait_for_rounds(runs: list[Path], rounds: int) -> None:
    deadline = time.monotonic() + 120
    while not any((run / "metrics.jsonl").exists() and len(metrics_so_far(run)) >= rounds for run in runs):
        assert time.monotonic() < deadline, "the runs did not get going"
        time.sleep(0.02)


def rows(sweep: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep / "results.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[1] / "docs" / "recipes").glob("*.toml")), ids=lambda p: p.stem
)
def test_every_recipe_can_be_swept(recipe):
    tables = read_toml(recipe)
    grid = Grid.of_table(tables.pop("grid"))
    assert len(resolve_all(Plan(tables, grid, 1))) == len(grid.combinations())
    assert len(grid.axes["train.seed"]) >= 3


@pytest.mark.slow
def test_the_grid_may_be_in_the_file(orwcfm, tmp_path):
    (tmp_path / "grid.toml").write_text('[grid]\n"reg.alpha" = [0.1, 1]\ntrain.seed = [3]\n')
    line = ("sweep", *SMALL, "--rounds", 1, "--config", "grid.toml", "--out", "sweep", "--grid", "seed=4,5")
    done = orwcfm(*line, "--threads", 1, OMP_NUM_THREADS="2")
    assert "4 runs; 1 at a time, 1 thread each" in done.stderr
    assert [(row["reg.alpha"], row["train.seed"]) for row in rows(tmp_path / "sweep")] == [
        ("0.1", "4"),
        ("0.1", "5"),
        ("1.0", "4"),
        ("1.0", "5"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid]\nalpha = 1\n", "[grid] alpha: expected a list of values, got 1"),
        ("[grid]\nalpha = []\n", "--grid alpha=[]: there is an empty value"),
        ("[grid]\nreg = [1979-05-27]\n", "[grid] reg: expected a list of values"),
        ("[grid]\nreg = [[1979-05-27]]\n", "[grid] reg: expected a list of values"),
    ],
)
def test_a_wrong_grid_in_the_file_is_one_line(orwcfm, tmp_path, text, said):
    (tmp_path / "grid.toml").write_text(text)
    done = orwcfm("sweep", *SMALL, "--config", "grid.toml", "--out", "sweep", code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_sweep_makes_runs_results_and_a_report_and_grows(orwcfm, tmp_path):
    line = ("sweep", *SMALL, "--rounds", 2, "--out", "sweep", "--processes", 2, "--grid", "seed=0,1", "--grid")
    done = orwcfm(*line, "reg.alpha=0.1,1", "--json", OMP_NUM_THREADS="1")
    assert json.loads(done.stdout) == {
        "runs": 4,
        "done": 4,
        "failed": {},
        "sweep": "sweep",
        "results": "sweep/results.csv",
        "report": "sweep/report.html",
    }
    sweep = tmp_path / "sweep"
    table = rows(sweep)
    assert [(row["run"], row["train.seed"], row["reg.alpha"], row["status"], row["rounds"]) for row in table] == [
        ("seed=0,alpha=0.1", "0", "0.1", "done", "2"),
        ("seed=0,alpha=1", "0", "1.0", "done", "2"),
        ("seed=1,alpha=0.1", "1", "0.1", "done", "2"),
        ("seed=1,alpha=1", "1", "1.0", "done", "2"),
    ]
    final = json.loads((sweep / "runs" / table[0]["run"] / "final.json").read_text())
    assert float(table[0]["reward_mean"]) == final["reward_mean"]
    settings = json.loads((sweep / "results.json").read_text())["settings"]
    assert [setting["grid"] for setting in settings] == [{"reg.alpha": 0.1}, {"reg.alpha": 1.0}]
    values = [float(row["reward_mean"]) for row in (table[0], table[2])]
    measured = settings[0]["measures"]["reward_mean"]
    assert measured["mean"] == pytest.approx(sum(values) / 2)
    assert measured["standard_error"] == pytest.approx(abs(values[0] - values[1]) / 2)

    page = (sweep / "report.html").read_text()
    assert 'href="runs/seed=0,alpha=0.1/report.html"' in page
    found, said = measured_in_a_browser(page, "d.querySelectorAll('.thumbs img').length", tmp_path)
    assert found == [0, True, 0, 4]
    assert ":CONSOLE" not in said

    before = {path: path.stat().st_mtime_ns for path in sweep.glob("runs/*/metrics.jsonl")}
    grown = orwcfm(*line, "alpha=1,3", "--json", OMP_NUM_THREADS="1")
    assert json.loads(grown.stdout)["runs"] == 6
    assert "4 of them done" in grown.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert len(rows(sweep)) == 6

    changed = orwcfm(*line, "alpha=1", "--tau", 2, "--rounds", 3, code=2).stderr
    assert "train.rounds: was 2, is 3; a sweep's base cannot change" in changed
    assert "weighting.tau: was 0.8, is 2.0" in changed
    other = ("sweep", *SMALL, "--rounds", 2, "--out", "sweep", "--grid", "tau=1,2")
    assert "this sweep is over train.seed, reg.alpha" in orwcfm(*other, code=2).stderr


@pytest.mark.slow
def test_a_killed_sweep_goes_on_bit_for_bit(orwcfm, tmp_path):
    args = ("--rounds", 60, "--set", "train.checkpoint_every=4", "--grid", "seed=0,1", "--processes", 2)
    orwcfm("sweep", *SMALL, *args, "--out", "whole", OMP_NUM_THREADS="1")

    parent = start(tmp_path, *args, "--out", "killed")
    runs = [tmp_path / "killed" / "runs" / f"seed={seed}" for seed in (0, 1)]
    wait_for_rounds(runs, 10)
    parent.kill()
    # Nobody gets to save: the children are killed as well, the moment their lock says who they are.
    for run in runs:
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((run / ".lock").read_text()), signal.SIGKILL)
    parent.communicate()
    assert not any((run / "final.json").exists() for run in runs)
    orwcfm("sweep", *SMALL, *args, "--out", "killed", OMP_NUM_THREADS="1")

    for seed in (0, 1):
        whole, killed = (tmp_path / name / "runs" / f"seed={seed}" for name in ("whole", "killed"))
        assert without_times(metrics(killed)) == without_times(metrics(whole))
        assert (killed / "final.json").read_text() == (whole / "final.json").read_text()
        expected, found = checkpoint(whole), checkpoint(killed)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_runs_save_when_their_sweep_is_killed_and_are_waited_for(orwcfm, tmp_path):
    parent = start(
        tmp_path, "--rounds", 300, "--set", "train.checkpoint_every=1000", "--grid", "seed=0", "--out", "sweep"
    )
    run = tmp_path / "sweep" / "runs" / "seed=0"
    wait_for_rounds([run], 5)
    parent.kill()
    parent.communicate()
    # At once: the run is still in its round, and holds its folder.
    orwcfm("sweep", "--resume", "sweep", OMP_NUM_THREADS="1")
    assert [row["status"] for row in rows(tmp_path / "sweep")] == ["done"]
    assert [row["round"] for row in metrics(run)] == list(range(1, 301))
    # It went on from what it saved when the sweep was gone, not from the start.
    assert "from round 0" not in (tmp_path / "sweep" / "logs" / "seed=0.log").read_text()


@pytest.mark.slow
def test_interrupt_saves_all_runs_and_resume_finishes_them(orwcfm, tmp_path):
    parent = start(tmp_path, "--rounds", 150, "--grid", "seed=0,1,2", "--processes", 2, "--out", "sweep")
    runs = tmp_path / "sweep" / "runs"
    wait_for_rounds([runs / "seed=0"], 3)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=120)
    assert parent.returncode == 130
    assert "orwcfm sweep --resume sweep" in said
    done = len(metrics(runs / "seed=0"))
    assert (runs / "seed=0" / "checkpoints" / f"round_{done:04d}").is_dir()
    assert not (runs / "seed=2").exists()
    assert {row["status"] for row in rows(tmp_path / "sweep")} <= {"interrupted", "missing"}

    orwcfm("sweep", "--resume", "sweep", "--processes", 2, OMP_NUM_THREADS="1")
    assert [row["status"] for row in rows(tmp_path / "sweep")] == ["done"] * 3


@pytest.mark.slow
def test_runs_of_a_sweep_that_ignores_ctrl_c_can_be_stopped(orwcfm, tmp_path):
    # As a script starts its background commands.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        parent = start(tmp_path, "--rounds", 3000, "--grid", "seed=0", "--out", "sweep")
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for_rounds([tmp_path / "sweep" / "runs" / "seed=0"], 3)
    parent.terminate()
    parent.communicate(timeout=60)
    assert parent.returncode == 143
    assert [row["status"] for row in rows(tmp_path / "sweep")] == ["interrupted"]


def test_what_all_runs_share_cannot_change_for_any_of_them(orwcfm, tmp_path):
    base = '[weighting]\nname = "advantage"\nclip = {}\n'
    args = ("sweep", *SMALL, "--rounds", 1, "--config", "base.toml", "--grid", "weighting=exp,advantage", "--out", "s")
    (tmp_path / "base.toml").write_text(base.format(3))
    orwcfm(*args, OMP_NUM_THREADS="1")
    (tmp_path / "base.toml").write_text(base.format(1))
    assert "weighting.clip: was 3.0, is 1.0" in orwcfm(*args, code=2).stderr


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(orwcfm, tmp_path):
    args = ("sweep", *SMALL, "--rounds", 1, "--grid", "device=meta,cpu", "--out", "sweep")
    done = orwcfm(*args, code=1, OMP_NUM_THREADS="1")
    assert "error: device=meta: train.device: 'meta' cannot be used here" in done.stderr
    assert "1 of 2 runs failed" in done.stderr
    table = rows(tmp_path / "sweep")
    assert [row["status"] for row in table] == ["failed", "done"]
    assert "'meta' cannot be used here" in table[0]["error"]
    assert "cannot be used here" in (tmp_path / "sweep" / "report.html").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--grid", "alpha=0,1"), "a sweep needs --grid OPTION=VALUE,VALUE, or [grid] in the file"),
        (("--out", "s"), "a sweep needs --grid"),
        (("--out", "s", "--grid", "alpha"), "expected OPTION=VALUE,VALUE"),
        (("--out", "s", "--grid", "alpa=1"), "did you mean 'alpha'"),
        (("--out", "s", "--grid", "alpha=1,,2"), "there is an empty value"),
        (("--out", "s", "--grid", "alpha=1,1"), "1 is there twice"),
        (("--out", "s", "--grid", "alpha=1,1.0"), "alpha=1.0 is the same run as alpha=1"),
        (("--out", "s", "--grid", "alpha=1", "--grid", "reg.alpha=2"), "reg.alpha is there twice"),
        (("--out", "s", "--grid", "alpha=-1,0", "--grid", "seed=0,1"), "got '-1' (in alpha=-1,seed=0 and 1 more)"),
        (("--out", "s", "--grid", "alpha=0,1", "--set", "train.round=1"), "did you mean 'rounds'?"),
        (("--out", "s", "--grid", "seed=0,1", "--seed", "7"), "train.seed: is set on the command line and in --grid"),
        (("--out", "s", "--grid", 'prompt=["a", '), "must be a JSON list"),
        (("--out", "s", "--preset", "paper", "--grid", "trainer=orw-cfm,nft"), "those of trainer orw-cfm, got nft"),
        (("--out", "s", "--grid", "train.threads=[null, 1]"), "null cannot be written"),
        (("--out", "s", "--grid", f"seed={','.join(map(str, range(10001)))}"), "10,001 combinations are too many"),
        (("--resume", "gone"), "gone is not a sweep"),
        (("--resume", "gone", "--alpha", "1", "--set", "a.b=1"), "leave out --alpha, --set"),
        (("--out", ".", "--grid", "alpha=0,1"), "--out . exists already, and is not a sweep"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(orwcfm, tmp_path, args, said):
    (tmp_path / "thesis.txt").write_text("precious")
    base = () if "--resume" in args else GMM
    done = orwcfm("sweep", *base, *args, code=2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_all_mistakes_come_at_once(orwcfm):
    args = ("--grid", "alpha=-1,0", "--grid", "train.rounds=0", "--tau", "x", "--out", "s")
    said = orwcfm("sweep", *GMM, *args, code=2).stderr
    assert [part in said for part in ("reg.alpha", "train.rounds", "weighting.tau")] == [True] * 3


@pytest.mark.parametrize("args", [["sweep", "--help"], ["compare", "--help"], ["eval", "--help"]], ids=" ".join)
def test_help_starts_without_torch(args):
    code = (
        "import sys; from orwcfm_cli.main import cli\n"
        f"cli({args!r}, standalone_mode=False)\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'rich', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_process_that_sweeps_never_imports_torch(tmp_path):
    args = ["sweep", *SMALL, "--rounds", "1", "--grid", "seed=0", "--out", "sweep"]
    code = (
        "import sys; from orwcfm_cli.main import cli\n"
        f"cli({args!r}, standalone_mode=False)\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "sweep" / "report.html").exists()
