"""All trainers on one command line: what they suggest, schedules and anchors, and that each can be resumed exactly."""

import json
import re
import shutil
import tomllib

import pytest
import torch
from click.testing import CliRunner
from orwcfm_cli.main import cli
from orwcfm_core.checkpoint import newest_checkpoint
from orwcfm_core.errors import UserError
from orwcfm_core.schedule import Knob, Schedules, Target
from orwcfm_core.testing.fakes import perturb
from orwcfm_core.testing.gradients import trainer_on_gmm
from orwcfm_core.weighting import Advantage
from safetensors.torch import load_file

TRAINERS = ("orw-cfm", "rwr", "raft", "reft", "awm", "nft", "rvm", "flow-grpo")
GMM = ("--backbone", "gmm", "--reward", "component")
SMALL = ("--set", "train.samples=16", "--set", "train.eval_samples=16", "--set", "sampler.steps=3")


def printed(*args):
    result = CliRunner().invoke(cli, ["run", *GMM, *args, "--print-config"], catch_exceptions=False)
    return tomllib.loads(result.output)


def test_a_trainer_suggests_what_it_is_meant_for_and_the_user_has_the_last_word():
    tables = printed("--trainer", "raft")
    assert (tables["weighting"]["name"], tables["reg"]["alpha"], tables["sampler"]["ema"]) == ("top-k", 0.0, 0.0)
    tables = printed(
        "--trainer", "raft", "--alpha", "0.2", "--set", "weighting.fraction=0.5", "--set", "sampler.ema=0.9"
    )
    assert (tables["weighting"]["fraction"], tables["reg"]["alpha"], tables["sampler"]["ema"]) == (0.5, 0.2, 0.9)
    tables = printed("--trainer", "awm", "--weighting", "advantage", "--reg", "kl")
    assert (tables["weighting"]["tau"], tables["reg"]["alpha"], tables["reg"]["anchor"]) == (0.8, 0.1, "reference")
    tables = printed("--trainer", "flow-grpo", "--reg", "w2:0.1", "--reg", "kl:0.2")
    assert (tables["reg"]["w2"]["alpha"], tables["reg"]["kl"]["alpha"]) == (0.1, 0.2)
    assert printed("--trainer", "orw-cfm") == printed()
    tables = printed("--reg", "w2:0.1", "--reg", "kl:0.2")
    assert (tables["reg"]["w2"]["anchor"], tables["reg"]["kl"]["anchor"]) == ("both", "reference")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), {"name": "adams", "steps": 10, "shift": 2.0, "ema": 0.5}),
        (("--trainer", "nft"), {"name": "adams", "steps": 10, "shift": 2.0, "ema": 0.5}),
        (("--trainer", "nft", "--sampler", "heun"), {"name": "heun", "steps": 10, "shift": 1.0, "ema": 0.5}),
        (("--trainer", "flow-grpo"), {"name": "euler", "steps": 10, "shift": 3.0, "ema": 0.0}),
        (("--sampler", "euler"), {"name": "euler", "steps": 10, "shift": 1.0, "ema": 0.5}),
        (("--backbone", "gmm"), {"name": "adams", "steps": 10, "shift": 1.0, "ema": 0.5}),
    ],
)
def test_what_a_backbone_suggests_for_one_sampler_is_not_for_another(args, expected):
    result = CliRunner().invoke(cli, ["run", "--backbone", "unet", *args, "--print-config"], catch_exceptions=False)
    assert expected.items() <= tomllib.loads(result.output)["sampler"].items()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_is_printed_reads_back_to_the_same(trainer, tmp_path):
    result = CliRunner().invoke(cli, ["run", *GMM, "--trainer", trainer, "--print-config"])
    (tmp_path / "run.toml").write_text(result.output)
    again = CliRunner().invoke(cli, ["run", "--config", str(tmp_path / "run.toml"), "--print-config"])
    assert again.output == result.output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("reg.schedule=cosine",), "reg.alpha_end: set it together with schedule=linear or cosine"),
        (("reg.schedule=target",), "reg.divergence: set it together with schedule=target"),
        (("reg.alpha=0", "reg.schedule=target", "reg.divergence=0.1"), "more than 0 at the start"),
        (("reg.name=none", "reg.schedule=linear", "reg.alpha_end=1"), "'none' has no alpha"),
        (("reg.name=none", "reg.anchor=both"), "reg.anchor: 'none' has no alpha that could hold to it; leave it out"),
        (("weighting.tau_end=1",), "weighting.tau_end: set it together"),
        (("weighting.name=top-k", "weighting.tau_end=1"), "unknown option of 'top-k'"),
        (("reg.anchor=policy",), "reg.anchor"),
        (("train.name=raft", "weighting.tau=2"), "unknown option of 'top-k'"),
        (("reg.name=adaptive-w2", "reg.low=6"), "reg.high: expected at least low = 6, got 5.0"),
        (('reg.name=["w2", "kl"]', "reg.kl.anchr=ema"), "reg.kl.anchr: unknown option of 'kl', did you mean 'anchor'?"),
        (
            ("reward.component.values=[1,1,1,1,1,1,1,1,1]",),
            "reward.values: expected at most one for each of 8 components",
        ),
    ],
)
def test_mistakes_are_told(settings, words):
    with pytest.raises(UserError, match=re.escape(words)):
        CliRunner().invoke(
            cli,
            ["run", *GMM, *(word for setting in settings for word in ("--set", setting)), "--print-config"],
            catch_exceptions=False,
        )


@pytest.mark.parametrize("trainer", ["rwr", "reft"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("weighting.name=exp", "weighting.schedule=linear", "weighting.tau_end=0"),
            r"weighting\.schedule: a fixed set is weighed once",
        ),
        (("train.group=32",), r"train\.group: a fixed set has as many samples of each prompt as it has; leave it out"),
    ],
)
def test_a_set_that_is_drawn_and_weighed_once_refuses_what_it_cannot_follow(trainer, settings, words, tmp_path):
    args = ["run", *GMM, "--trainer", trainer, *(word for setting in settings for word in ("--set", setting))]
    with pytest.raises(UserError, match=words):
        CliRunner().invoke(cli, [*args, "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def rows(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in found]


def weights(run):
    newest = newest_checkpoint(run / "checkpoints")
    return {f"{p.name}:{name}": t for p in newest.glob("*.safetensors") for name, t in load_file(p).items()}


def resumed_exactly(args, tmp_path):
    """Do a run of four rounds, and another one that goes on from the second; returns the folder of the first."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert CliRunner().invoke(cli, [*args, "--out", str(whole)]).exit_code == 0
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints" / "round_0004")
    assert CliRunner().invoke(cli, ["resume", str(part)]).exit_code == 0
    assert rows(part) == rows(whole)
    first, second = weights(whole), weights(part)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    return whole


def test_schedules_and_anchors_survive_a_resume(tmp_path):
    options = ("reg.anchor=both", "reg.schedule=target", "reg.divergence=0.01", "weighting.schedule=cosine")
    options += ("weighting.tau_end=2", "train.checkpoint_every=2")
    args = ["run", *GMM, *SMALL, *(word for option in options for word in ("--set", option)), "--rounds", "4"]
    whole = resumed_exactly(args, tmp_path)
    assert [row["tau"] for row in rows(whole)] == pytest.approx([0.8, 1.1, 1.7, 2.0])
    assert len({row["alpha"] for row in rows(whole)}) > 2
    assert tomllib.loads((whole / "run.toml").read_text())["reg"]["anchor"] == "both"


@pytest.mark.parametrize("trainer", ["rwr", "flow-grpo"])
def test_a_trainer_with_samples_of_its_own_goes_on_where_it_was(trainer, tmp_path):
    args = ["run", *GMM, *SMALL, "--trainer", trainer, "--rounds", "4", "--set", "train.checkpoint_every=2"]
    args += ["--set", "train.data_samples=64"] if trainer == "rwr" else []
    resumed_exactly(args, tmp_path)


def trained(name, scale=None, **options):
    """Metrics and parameters after two rounds from a perturbed start, with gradients scaled as in fp16."""
    small = {"samples": 12, "updates": 2} | ({"data_samples": 30, "watch": 12} if name in ("rwr", "reft") else {})
    trainer, state = trainer_on_gmm(name, small | options, lambda scores: scores - 0.2)
    perturb(state.components.backbone.policy().parameters(), seed=1)
    if scale:
        state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    found = [trainer.round(state) for _ in range(2)]
    return [row | {"seconds": 0, "samples_per_second": 0} for row in found], state.ema.parameters


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_overlaps_and_scales_without_another_number(trainer, monkeypatch):
    rows, parameters = trained(trainer)
    assert rows[-1]["skipped"] == 0
    scaled = trained(trainer, scale=2.0**10)
    assert scaled[0] == rows
    assert all(map(torch.equal, scaled[1], parameters))
    threads = trained(trainer, overlap=3)
    monkeypatch.setattr("orwcfm_core.overlap.pipelined", lambda items, work: [work(item) for item in items])
    in_turn = trained(trainer, overlap=3)
    assert threads[0] == in_turn[0]
    assert all(map(torch.equal, threads[1], in_turn[1]))
    for p, q in zip(threads[1], parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_the_controller_holds_a_divergence_on_the_mixture():
    options = {"samples": 192, "updates": 4, "rounds": 90, "lr": 5e-3, "decay": 1.0, "warmup": 0, "clip_norm": 1.0}
    trainer, state = trainer_on_gmm("orw-cfm", options, torch.ones_like, steps=6)
    state.components.weighting = Advantage(0.6, 3.0)
    regularizer = state.components.regularizer
    state.components.schedules = Schedules([Knob("alpha", regularizer, "alpha", Target(1.0, 0.2))])
    found = [trainer.round(state)["velocity_divergence"] for _ in range(90)]
    assert sum(found[-40:]) / 40 == pytest.approx(0.2, rel=0.25)
    assert max(found) < 0.8
