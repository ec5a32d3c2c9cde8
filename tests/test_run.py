"""The command line end to end, on the shipped models."""

import json
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import torch
from commandline import ORWCFM, SMALL
from orwcfm_core.checkpoint import newest_checkpoint
from orwcfm_core.testing.trainers import METRICS
from PIL import Image
from safetensors.torch import load_file

ALL_METRICS = {*METRICS, "skipped", "heldout_class-probability", "ema_alpha"}
GMM = ("--backbone", "gmm", "--reward", "component", "--reg", "w2", "--set", "train.samples=64")


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in rows]


def checkpoint(run: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(run / "checkpoints")
    return {
        f"{path.name}:{name}": value for path in newest.glob("*.safetensors") for name, value in load_file(path).items()
    }


def test_the_main_line_makes_a_whole_run_folder(orwcfm, tmp_path):
    done = orwcfm("run", "--reward", "clip-score", "--reg", "w2", "--alpha", "0.1", *SMALL, "--json")
    result = json.loads(done.stdout)
    run = tmp_path / result["run"]
    assert run == tmp_path / "runs" / "clip-score-w2-001"
    assert "small" in done.stderr
    assert [set(row) for row in metrics(run)] == [ALL_METRICS, ALL_METRICS]
    assert (run / "report.html").stat().st_size > 10_000
    assert {path.name for path in (run / "samples").iterdir()} == {"round_0000.png", "round_0002.png"}
    assert json.loads((run / "reference.json").read_text())["satisfying_judge"] == "class-probability"

    sampled = orwcfm("sample", run, "--count", 9, "--json")
    with Image.open(tmp_path / json.loads(sampled.stdout)["picture"]) as picture:
        assert min(picture.size) > 80
    (run / "report.html").unlink()
    assert "report" in orwcfm("report", run).stdout
    assert (run / "report.html").exists()


def test_a_backbone_of_points_gets_the_reward_that_fits_it(orwcfm):
    assert tomllib.loads(orwcfm("run", "--backbone", "gmm", "--print-config").stdout)["reward"]["name"] == "component"
    other = orwcfm("run", "--backbone", "gmm", "--reward", "jpeg-compressibility", "--print-config").stdout
    assert tomllib.loads(other)["reward"]["name"] == "jpeg-compressibility"


def test_printed_configuration_is_complete_and_reads_back(orwcfm, tmp_path):
    first = orwcfm("run", "--alpha", "0.25", "--prompt", "a bag", "--print-config").stdout
    (tmp_path / "run.toml").write_text(first)
    assert orwcfm("run", "--config", "run.toml", "--print-config").stdout == first
    assert "alpha = 0.25" in first
    over = orwcfm("run", "--config", "run.toml", "--set", "reg.alpha=0.5", "--alpha", "0.75", "--print-config").stdout
    assert over == first.replace("0.25\n\n[weighting]", "0.75\n\n[weighting]")


def test_the_printed_configuration_is_json_where_that_is_asked_for(orwcfm):
    tables = json.loads(orwcfm("run", "--alpha", "0.25", "--print-config", "--json").stdout)
    assert (tables["reg"]["name"], tables["reg"]["alpha"]) == ("w2", 0.25)


def test_what_a_run_told_and_where_it_ran_is_not_needed_to_go_on_or_to_look(orwcfm, tmp_path):
    orwcfm("run", *GMM, "--rounds", 1, "--out", "run")
    toml = tmp_path / "run" / "run.toml"
    text = toml.read_text()
    toml.write_text(text.replace('[callback]\nname = "none"', '[callback]\nname = "gone"'))
    assert "unknown callback 'gone'" in orwcfm("resume", "run", "--rounds", 2, code=2).stderr
    orwcfm("sample", "run", "--count", 4)
    # Nor what scored it to draw from it.
    toml.write_text(text.replace('name = "component"', 'name = "component@/gone"'))
    assert "no Python interpreter at /gone" in orwcfm("resume", "run", code=2).stderr
    orwcfm("sample", "run", "--count", 4)
    toml.write_text(text.replace('[callback]\nname = "none"', '[callback]\nname = "gone"'))
    orwcfm("resume", "run", "--rounds", 2, "--callback", "none")
    toml.write_text(toml.read_text().replace('device = "auto"', 'device = "cuda:99"'))
    assert "'cuda:99' cannot be used here" in orwcfm("resume", "run", "--rounds", 3, code=2).stderr
    assert "using " in orwcfm("sample", "run", "--count", 4).stderr
    # A file that was made shorter by hand.
    toml.write_text(toml.read_text().replace('[callback]\nname = "none"\n', ""))
    orwcfm("sample", "run", "--count", 4)


def test_dry_run_says_what_a_run_takes_and_writes_nothing(orwcfm, tmp_path):
    plan = json.loads(orwcfm("run", *GMM, "--dry-run", "--json").stdout)
    assert plan["model_evaluations"] > 0
    assert plan["memory_gib"] > 0
    assert plan["seconds"] > 0
    assert not (tmp_path / "runs").exists()


def test_prompts_condition_a_conditional_backbone(orwcfm, tmp_path):
    args = ("run", "--set", "backbone.conditional=true", "--prompt", "a bag", "--prompt", "trousers", *SMALL)
    orwcfm(*args, "--set", "train.group=8", "--set", "sampler.steps=8", "--out", "run")
    reference = json.loads((tmp_path / "run" / "reference.json").read_text())
    assert reference["heldout_class-probability"] > 0.8


def test_a_finished_run_stays_what_it_is_when_resumed(orwcfm, tmp_path):
    orwcfm("run", *GMM, "--rounds", 2, "--out", "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
    assert set(before) == {"metrics.jsonl", "reference.json", "final.json"}
    orwcfm("resume", "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")} == before


UNET = ("--set", "train.samples=8", "--set", "sampler.steps=2")


@pytest.mark.parametrize("kind", [(*GMM, "--weighting", "exp"), GMM, UNET], ids=["exp", "advantage", "unet"])
def test_killed_and_resumed_equals_never_interrupted(orwcfm, tmp_path, kind):
    args = (*kind, "--rounds", 40, "--set", "train.checkpoint_every=3")
    orwcfm("run", *args, "--out", "whole")

    child = subprocess.Popen(
        [ORWCFM, "run", *map(str, args), "--out", "killed"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    wait_for_rounds(tmp_path / "killed", 8)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(metrics(tmp_path / "killed")) < 40, "the run ended before it could be killed"
    orwcfm("resume", "killed")

    assert without_times(metrics(tmp_path / "killed")) == without_times(metrics(tmp_path / "whole"))
    whole, resumed = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_interrupt_saves_and_says_how_to_go_on(tmp_path):
    args = [ORWCFM, "run", *GMM, "--rounds", "2000", "--out", "run"]
    child = subprocess.Popen(args, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_rounds(tmp_path / "run", 3)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "orwcfm resume run" in stderr
    done = len(metrics(tmp_path / "run"))
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").name == f"round_{done:04d}"
    assert (tmp_path / "run" / "report.html").exists()


def wait_for_rounds(run: Path, rounds: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len(metrics_so_far(run)) < rounds:
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.02)


def metrics_so_far(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()
