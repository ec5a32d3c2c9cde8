"""`orwcfm eval` on real runs."""

import json
import math
from pathlib import Path

import pytest
import torch
from commandline import SMALL
from orwcfm_backbone_gmm.backbone import GmmBackbone
from orwcfm_cli.assemble import assemble
from orwcfm_cli.evaluate_run import Request, evaluate_run
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.trained import Trained
from orwcfm_core.errors import RunError
from PIL import Image
from test_run import GMM


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of the mixture that learned something, and one of pictures."""
    from click.testing import CliRunner
    from orwcfm_cli.main import cli

    folder = tmp_path_factory.mktemp("runs")
    gmm = [*GMM, "--rounds", "40", "--set", "train.lr=0.002", "--set", "train.checkpoint_every=8"]
    pictures = [*SMALL, "--set", "train.eval_samples=16"]
    for name, args in {"gmm": gmm, "pictures": pictures}.items():
        done = CliRunner().invoke(cli, ["run", *args, "--out", str(folder / name)])
        assert done.exit_code == 0, done.exception
    return folder


def evaluated(orwcfm, *args: object) -> dict:
    return json.loads(orwcfm("eval", *args, "--json").stdout)


def test_a_learned_reward_shows_with_its_interval(orwcfm, runs):
    found = evaluated(orwcfm, runs / "gmm", "--reference", "--feature-space", "samples", "--samples", 2000)
    # Eight equal components with rewards 1 and 0.5 and six times 0.
    assert found["reference"]["reward_component"]["value"] == pytest.approx(1.5 / 8, abs=0.04)
    gain = found["difference"]["reward_component"]
    assert gain["low"] > 0
    policy, reference = (found[name]["reward_component"]["value"] for name in ("policy", "reference"))
    assert gain["value"] == pytest.approx(policy - reference)
    # A circle of equal shares: the covariance of directions is that of two equal axes.
    assert found["reference"]["vendi"]["value"] == pytest.approx(2, abs=0.01)
    assert found["policy"]["velocity_divergence"]["low"] > 0
    assert found["policy"]["frechet_reference"]["value"] > 0
    assert found["round"] == 40


def test_it_is_reproducible_and_the_two_scales_are_told_apart(orwcfm, runs, tmp_path):
    first, again, other = (evaluated(orwcfm, runs / "gmm", "--samples", 300, *args) for args in ((), (), ("--seed", 5)))
    assert first == again
    assert first["policy"]["reward_component"] != other["policy"]["reward_component"]
    assert first["feature_space"] == "pixels"
    assert first["normalised"]
    args = ("eval", runs / "gmm", "--samples", 300, "--feature-space", "samples", "--raw", "--out", "eval.json")
    shown = orwcfm(*args).stdout
    assert "diversity, raw" in shown
    assert "features of samples, as they are" in shown
    raw = json.loads((tmp_path / "eval.json").read_text())
    assert not raw["normalised"]
    # Points around a circle of radius 4, with the noise of each component, are further apart than 2.
    assert raw["policy"]["diversity"]["value"] > 3


def test_best_is_an_earlier_checkpoint_where_that_was_better(orwcfm, runs):
    rounds = {evaluated(orwcfm, runs / "gmm", "--samples", 8, "--checkpoint", c)["round"] for c in ("newest", "best")}
    assert 40 in rounds
    assert rounds <= {8, 16, 24, 32, 40}


def save_pictures(folder: Path) -> Path:
    folder.mkdir()
    for i in range(6):
        Image.linear_gradient("L").rotate(60 * i).resize((28, 28)).save(folder / f"{i}.png")
    Image.new("RGB", (50, 40), (255, 100, 0)).save(folder / "colour.jpg")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_any_reward_and_real_images(orwcfm, runs, tmp_path):
    real = save_pictures(tmp_path / "real")
    found = evaluated(
        orwcfm,
        *(runs / "pictures", "--samples", 16, "--real", real, "--reference"),
        *("--reward", "class-probability", "--reward", "jpeg-compressibility"),
        *("--set", "reward.class-probability.labels=coat", "--feature-space", "clip-score"),
    )
    assert set(found["policy"]) == {
        "reward_class-probability",
        "share_class-probability",
        "reward_jpeg-compressibility",
        "diversity",
        "vendi",
        "frechet_real",
        "frechet_reference",
        "velocity_divergence",
    }
    assert found["feature_space"] == "clip-score"
    assert set(found["real"]) == {"diversity", "vendi"}
    assert found["policy"]["frechet_real"]["value"] > 0
    assert all(math.isfinite(e["value"]) for e in found["policy"].values())


def test_by_default_it_scores_what_the_run_did(orwcfm, runs):
    found = evaluated(orwcfm, runs / "pictures", "--samples", 8)
    assert {"reward_clip-score", "reward_class-probability"} <= set(found["policy"])
    assert found["feature_space"] == "class-probability"
    assert found["prompts"] == ["footwear"]
    assert not found["reference"]
    assert not found["real"]


def test_a_judge_with_the_name_of_a_reward_is_not_lost(orwcfm, tmp_path):
    orwcfm("run", *GMM, "--rounds", 1, "--set", "heldout.name=component", "--set", "heldout.values=[0,1]", "--out", "r")
    found = evaluated(orwcfm, "r", "--samples", 512)
    final = json.loads((tmp_path / "r" / "final.json").read_text())
    assert found["policy"]["reward_component"]["value"] == pytest.approx(final["reward_mean"], abs=0.08)
    assert found["policy"]["reward_heldout_component"]["value"] == pytest.approx(final["heldout_component"], abs=0.08)
    assert set(evaluated(orwcfm, "r", "--samples", 8, "--reward", "component")["invalid"]) == {"component"}


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ("images.flatten(1)[:, None]", "reward 'bad': its features have shape (16, 1, 784), expected (16, D)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_reward_that_goes_wrong_is_named(orwcfm, plugin, runs, features, said):
    score = "return Scores(images.flatten(1).mean(1))"
    env = plugin("bad", f"{score}\n    def features(self, images):\n        return {features}")
    args = ("--samples", 16, "--reward", "bad", "--feature-space", "bad")
    error = orwcfm("eval", runs / "pictures", *args, code=1, **env).stderr
    assert said in error


def test_what_a_backbone_draws_for_itself_is_the_runs_own(runs, monkeypatch):
    build, drawn = GmmBackbone.__init__, []

    def drawing(self, config):
        build(self, config)
        drawn.append(float(torch.rand(())))

    monkeypatch.setattr(GmmBackbone, "__init__", drawing)
    folder = RunFolder.open(runs / "gmm")
    config = folder.read_config()
    torch.manual_seed(12345)
    assemble(config)
    Trained.load(folder, config)
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


def test_what_is_no_number_is_no_sample(runs, monkeypatch):
    sampled = Trained.draw
    request = Request(runs / "gmm", (), (), 64, None, True, None, True, 0, "newest")

    def half(self, *args):
        x_1 = sampled(self, *args)
        x_1[::2] = math.nan
        return x_1

    whole = evaluate_run(request)
    monkeypatch.setattr(Trained, "draw", half)
    found = evaluate_run(request)
    assert found["not_finite"] == found["invalid"]["component"] == 32
    assert whole["not_finite"] == 0
    for name in ("diversity", "vendi", "reward_component", "frechet_reference"):
        assert found["policy"][name]["value"] == pytest.approx(whole["policy"][name]["value"], rel=0.5)
    monkeypatch.setattr(Trained, "draw", lambda self, *args: sampled(self, *args) * math.nan)
    nothing = evaluate_run(request)
    known = {key for key, estimate in nothing["policy"].items() if estimate["value"] is not None}
    assert not known


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--reward", "clip-scor"), "did you mean 'clip-score'"),
        (("--set", "reward.promt=x", "--reward", "clip-score"), "unknown option of 'clip-score'"),
        (("--set", "train.lr=1"), "train.lr: the run is done; only options of rewards can change here"),
        (("--set", "lr"), "expected SECTION.OPTION=VALUE"),
        (("--samples", "3"), "is not in the range"),
        (("--feature-space", "nothing"), "--feature-space: unknown reward 'nothing'"),
        (("--reward", "class-probability:2"), "--reward class-probability:2: expected a name without a weight"),
        (("--feature-space", "jpeg-compressibility"), "this reward has no features"),
        (("--feature-space", "samples", "--real", "real"), "real images are no samples of the model"),
        (("--real", "gone"), "expected a folder of at least two images, found 0"),
        (("--real", "broken"), "cannot read picture broken"),
        (("--real", "large"), "cannot read picture large/0.pgm"),
        (("--real", "deep"), "deep/0.png has more than 8 bits"),
        (("--out", "real"), "expected a JSON file, got a folder"),
        (("--out", "real/0.png/eval.json"), "cannot make its folder"),
    ],
)
def test_mistakes(orwcfm, runs, tmp_path, args, said):
    save_pictures(tmp_path / "real")
    (tmp_path / "broken").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "large").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "broken" / name).write_bytes(b"no picture")
    for i in range(2):
        Image.new("I;16", (28, 28), 30_000).save(tmp_path / "deep" / f"{i}.png")
        (tmp_path / "large" / f"{i}.pgm").write_bytes(b"P5 99999 99999 255 ")
    done = orwcfm("eval", runs / "pictures", "--samples", 8, *args, code=2)
    assert said in done.stderr
    assert done.stdout == ""


def test_want_of_memory_says_what_to_do(runs, monkeypatch):
    def full(self, *args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Trained, "draw", full)
    with pytest.raises(RunError, match=r"CUDA out of memory.*: lower --samples"):
        evaluate_run(Request(runs / "gmm", (), (), 64, None, True, None, True, 0, "newest"))
