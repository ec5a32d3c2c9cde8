"""A bad day: early stops, warnings, memory that runs out, and files that are not what they seem."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest
import torch
from commandline import POINTS, here, rounds
from orwcfm_core.checkpoint import newest_checkpoint
from orwcfm_core.orw_cfm import mean_square
from orwcfm_core.testing import FakeDistribution
from safetensors.torch import load_file

MODULE = """
from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl
from pydantic import Field

class Config(ComponentConfig):
    peak: int = Field(8, description="Round in which it is best.")

@hookimpl
def orwcfm_rewards():
    names = {"bright": "Bright", "scripted": "Scripted"}
    return [RewardSpec(name=n, summary="A test.", config=Config, factory=f"odd_reward:{c}") for n, c in names.items()]
"""
REWARD = """
import torch
from orwcfm_core.reward import Reward, Scores

class Bright(Reward):
    def __init__(self, config):
        pass

    def score(self, images, prompts):
        x = torch.linspace(0, 1, images.shape[-1])
        return Scores((images.mean((1, 2)) * x).sum(1))

class Scripted(Reward):
    def __init__(self, config):
        self.config, self.calls = config, 0

    # Its first call is for the reference, the others are for the rounds.
    def score(self, images, prompts):
        self.calls += 1
        return Scores(torch.full((len(images),), -abs(self.calls - 1.0 - self.config.peak)))
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistribution]:
    """A reward that varies from sample to sample, and a judge whose scores depend on the round alone."""
    monkeypatch.chdir(tmp_path)
    names = {"reward": {"bright": "odd_plugin", "scripted": "odd_plugin"}}
    with FakeDistribution(tmp_path / "site", "odd", names, {"odd_plugin.py": MODULE, "odd_reward.py": REWARD}) as made:
        yield made


@pytest.mark.parametrize("every", [1, 3, 10])
def test_an_early_stop_ends_with_the_best_round(odd, every):
    judged = (*POINTS, "--reward", "bright", "--eval-reward", "scripted", "--set", f"train.checkpoint_every={every}")
    done = here(*judged, "--early-stop", 6, "--rounds", 40, "--out", "run", code=0)
    # What is best is a mean of five rounds, seen where there is a checkpoint.
    score = {n: -abs(n - 8) for n in range(1, 41)}
    late = {n: fmean(score[i] for i in range(max(1, n - 4), n + 1)) for n in range(every, 41, every)}
    stopped, best = next((now, b) for now in range(every, 41, every) if (b := best_until(late, now)) and now - b >= 6)
    assert best < stopped < 40
    assert f"stopped after round {stopped}: nothing was better than round {best}, which is the result" in done.err
    assert len(rounds(Path("run"))) == stopped
    assert json.loads(Path("run/final.json").read_text())["round"] == best
    assert json.loads(here("sample", "run", "--json", code=0).out)["round"] == best
    assert f"the result is round {best}" in Path("run/report.html").read_text()
    # The same run without a stop, all of whose checkpoints are kept.
    here(*judged, "--rounds", 40, "--set", "train.keep=40", "--out", "whole", code=0)
    expected = load_file(f"whole/checkpoints/round_{best:04d}/sampling.safetensors")
    found = load_file(newest_checkpoint(Path("run/checkpoints")) / "sampling.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def best_until(late: dict[int, float], now: int) -> int:
    """The checkpoint that is best so far, the oldest of several; 0 if there is none."""
    return -max(((value, -n) for n, value in late.items() if n <= now), default=(0.0, 0))[1]


def test_the_best_checkpoint_is_kept_beyond_the_newest(odd):
    args = ("--reward", "bright", "--eval-reward", "scripted", "--set", "train.checkpoint_every=1")
    here(*POINTS, *args, "--rounds", 20, "--set", "train.keep=3", "--out", "run", code=0)
    kept = sorted(path.name for path in Path("run/checkpoints").iterdir())
    # Five rounds around the eighth, 6 to 10.
    assert kept == ["round_0010", "round_0018", "round_0019", "round_0020"]


def test_a_run_that_goes_wrong_says_so_while_it_does(odd):
    args = ("--reward", "bright", "--weighting", "exp", "--tau", "1e6", "--reg", "none", "--set", "train.samples=128")
    done = here(*POINTS, *args, "--rounds", 8, "--set", "train.lr=0.02", "--out", "run", code=0)
    warnings = [line for line in done.err.splitlines() if line.startswith("warning: round")]
    assert len([line for line in warnings if "carry all the weight; lower weighting.tau" in line]) == 1
    assert all(row["loss"] is not None for row in rounds(Path("run")))


def test_updates_that_are_not_finite_end_the_run_and_leave_their_inputs(odd, monkeypatch):
    args = (*POINTS, "--reward", "bright", "--set", "train.checkpoint_every=1", "--rounds", 3)
    here(*args, "--out", "whole", code=0)
    with monkeypatch.context() as broken:
        broken.setattr("orwcfm_core.orw_cfm.mean_square", lambda x: mean_square(x) * float("nan"))
        done = here(*args, "--set", "train.max_skipped=6", "--out", "run", code=1)
    assert done.errors == [
        "error: round 2: 6 updates in a row were skipped (train.max_skipped): the loss or its gradient is not finite"
    ]
    (row,) = rounds(Path("run"))
    assert (row["skipped"], row["loss"], row["invalid"]) == (4, None, 0)
    inputs = load_file("run/failed/round_0002.safetensors")
    assert {"x_1", "t", "x_t", "u_t", "w"} <= inputs.keys()
    t = inputs["t"][:, None]
    # They are what they say: x_t lies on the path that u_t leads along to the sample.
    torch.testing.assert_close(inputs["x_t"] + (1 - t) * inputs["u_t"], inputs["x_1"], rtol=1e-4, atol=1e-5)
    policy = load_file(newest_checkpoint(Path("run/checkpoints")) / "policy.safetensors")
    assert all(p.isfinite().all() for p in policy.values())
    # What was wrong is mended: the run goes on.
    here("resume", "run", code=0)
    assert [row["loss"] is None for row in rounds(Path("run"))] == [True, False, False]


LIMITED = """
import resource, sys
import torch
from pathlib import Path
from orwcfm_cli.main import main
from orwcfm_cli import runner
import orwcfm_backbone_gmm.backbone, orwcfm_reg_w2.regularizer
torch.set_num_threads(1)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv[1:] = sys.argv[2:]
main()
"""
# Each sample takes 16 KiB in the mixture's distances alone, 256 MiB for all of them.
WIDE = (
    *("run", "--backbone", "gmm", "--reward", "bright", "--rounds", "1", "--set", "train.eval_samples=16"),
    *("--set", "backbone.dim=64", "--set", "backbone.components=64", "--set", "sampler.steps=1"),
    *("--set", "train.samples=16384", "--set", "train.updates=1", "--set", "weighting.name=exp"),
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not keep to such a limit")


def limited(odd: FakeDistribution, mebibytes: int, *args: object) -> subprocess.CompletedProcess[str]:
    """Call the command line in a process that may take so much more memory than it has after its imports."""
    command = [sys.executable, "-c", LIMITED, str(mebibytes), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **odd.env()}, timeout=300)
    assert "Traceback" not in done.stderr
    return done


@linux
def test_out_of_memory_goes_on_with_less_at_once(odd):
    done = limited(odd, 700, *WIDE, "--set", "train.micro_batch=16384", "--out", "cramped")
    assert done.returncode == 0, done.stderr
    assert "warning: out of memory: going on with 8192 samples at once (train.micro_batch)" in done.stderr
    here(*WIDE, "--set", "train.micro_batch=1024", "--out", "roomy", code=0)
    found, expected = rounds(Path("cramped"))[0], rounds(Path("roomy"))[0]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


@linux
@pytest.mark.parametrize("dry", [("--dry-run",), ("--out", "run")])
def test_what_no_smaller_micro_batch_can_save_is_one_line(odd, dry):
    done = limited(odd, 130, *WIDE, "--set", "train.micro_batch=64", *dry)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "memory" in errors[0] or "does not fit" in errors[0]
    assert "train.samples" in errors[0]
    assert not Path("run/metrics.jsonl").exists()


@linux
@pytest.mark.parametrize("option", ["train.samples", "train.eval_samples"])
def test_a_plan_that_cannot_fit_is_refused_before_anything_is_tried(odd, option):
    done = limited(odd, 900, *POINTS, "--reward", "bright", "--set", f"{option}=1000000", "--dry-run")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert error.startswith("error: does not fit: ")
    assert option in error


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A pickle that leaves a file behind when it is read; it must not be there at the end."""
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "unpickled"
    data = pickle.dumps(Evil(marker))
    pickle.loads(data).close()
    assert marker.exists(), "the pickle is harmless, and the test proves nothing"
    marker.unlink()
    yield data
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".pth", ".pkl"])
@pytest.mark.parametrize(
    "args",
    [
        ("--set", "backbone.weights=FILE"),
        ("--reward", "class-probability", "--set", "reward.model=FILE"),
        ("--reward", "clip-score", "--set", "reward.model=FILE"),
        ("--set", "heldout.model=FILE"),
    ],
    ids=["backbone.weights", "class-probability", "clip-score", "judge"],
)
def test_a_pickle_offered_as_weights_is_refused_unread(evil, args, suffix):
    Path(f"evil{suffix}").write_bytes(evil)
    done = here("run", *(arg.replace("FILE", f"evil{suffix}") for arg in args), "--out", "run", code=2)
    assert len(done.errors) == 1
    assert f"evil{suffix}" in done.errors[0] or "expected" in done.errors[0]
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.pt", "open_clip_model.safetensors"])
def test_a_pickle_in_a_folder_of_open_clip_is_refused_unread(evil, name):
    # Without an import, which takes seconds.
    package = Path(find_spec("orwcfm_reward_clip_score").origin).parent
    shutil.copytree(package / "models" / "small", "folder")
    for weights in Path("folder").glob("*.safetensors"):
        weights.unlink()
    (Path("folder") / name).write_bytes(evil)
    for model in ("folder", "./folder", "local-dir:folder"):
        done = here("run", "--set", f"reward.model={model}", "--out", "run", code=2)
        assert len(done.errors) == 1
        assert "folder" in done.errors[0]


@pytest.mark.parametrize("name", ["evil.pt", "evil.bin", "evil.safetensors"])
def test_a_pickle_for_a_known_clip_is_refused_unread(evil, name):
    Path(name).write_bytes(evil)
    settings = ("--set", "reward.model=ViT-B-32", "--set", f"reward.pretrained={name}")
    done = here("run", *settings, "--out", "run", code=2)
    assert len(done.errors) == 1
    assert name in done.errors[0]


@pytest.mark.parametrize("file", ["policy.safetensors", "sampling.safetensors", "training.safetensors", "state.json"])
def test_a_pickle_in_a_checkpoint_is_refused_unread(evil, file):
    here(*POINTS, "--reward", "component", "--rounds", 2, "--out", "run", code=0)
    checkpoint = newest_checkpoint(Path("run/checkpoints"))
    (checkpoint / file).write_bytes(evil)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    # Whoever puts it there can put its digest there as well.
    manifest["sha256"][file] = hashlib.sha256(evil).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    done = here("resume", "run", code=2)
    assert len(done.errors) == 1
    assert f"{checkpoint} is not a checkpoint of this model" in done.errors[0]
    assert here("sample", "run").code == (2 if file == "sampling.safetensors" else 0)
