"""Rewards `toy`, `bare` and `dice` in an environment of their own, which die, hang, draw or start things when told."""

from __future__ import annotations

import inspect
import sysconfig
import venv
from pathlib import Path

import torch
from orwcfm_core.reward import Reward

__all__ = ["environment", "pid", "points", "toy_environment"]

PLUGIN = """
import fcntl, sys, time
from typing import Literal
from orwcfm_core.plugin import ComponentConfig, Example, RewardSpec, hookimpl
from pydantic import Field, field_validator

print("a light module that prints")

class Config(ComponentConfig):
    scale: float = Field(2.0, gt=0, description="Factor.")
    mode: Literal["exp", "log"] = Field("exp", description="Function.")
    labels: tuple[str, ...] = Field((), description="Names.")
    weights: str | None = Field(None, description="A file.")
    seen: str = Field(default_factory=lambda: ",".join({"torch", "numpy"} & set(sys.modules)), description="A probe.")

    @field_validator("scale")
    @classmethod
    def odd(cls, scale):
        if scale == 13:
            raise ValueError("not {this} one")
        return scale

    @field_validator("weights")
    @classmethod
    def hold(cls, weights):
        if weights and weights.startswith("hold "):
            with open(weights.removeprefix("hold "), "w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                time.sleep(1000)
        return weights

@hookimpl
def orwcfm_rewards():
    return [RewardSpec(
        name=name, summary="A toy.", config=Config, factory=f"toy_reward:{name.title()}", value_range=(0.0, None),
        references=("One", "Two"), differentiable=True, example=Example(shape=(2,), options={"scale": 3.0}),
        deterministic=name != "dice",
    ) for name in ("toy", "bare", "dice")]
"""

REWARD = """
import os, signal, subprocess, sys, time
from pathlib import Path
import torch
from orwcfm_core.errors import UserError
from orwcfm_core.reward import Reward, Scores

class Toy(Reward):
    def __init__(self, config):
        if config.weights:
            raise FileNotFoundError(f"no {config.weights}")
        self.config = config

    def score(self, images, prompts):
        do, _, what = prompts[0].partition(" ")
        if do in ("die", "raise", "quit", "blame", "hang", "once", "pid", "mask", "print", "number", "draw", "start"):
            return getattr(self, do)(images, what)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return Scores(images.flatten(1).mul(self.config.scale).exp().mean(1) + lengths)

    def features(self, images):
        return images.flatten(1).cos()

    def describe(self):
        return f"toy of scale {self.config.scale}"

    def die(self, images, code):
        print("last words")
        os._exit(int(code))

    def raise_(self, images, what):
        raise ValueError(what)

    def quit(self, images, what):
        sys.exit(what)

    def blame(self, images, what):
        raise UserError(what)

    def hang(self, images, seconds):
        time.sleep(float(seconds))
        return Scores(images[:, 0])

    def once(self, images, file):
        if not Path(file).exists():
            Path(file).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Scores(images[:, 0])

    def pid(self, images, what):
        return Scores(torch.full((len(images),), os.getpid(), dtype=torch.float64))

    def mask(self, images, what):
        return Scores(images[:, 0], images[:, 0] > 0)

    def print(self, images, what):
        os.write(1, b'{"result": null}' + bytes(10) * 100_000)
        print("to stdout", "to stderr", sep=chr(10), file=sys.stderr)
        return Scores(images[:, 0])

    def number(self, images, what):
        return float(what)

    def draw(self, images, what):
        return Scores(torch.randn(len(images)))

    def start(self, images, what):
        child = subprocess.Popen(["sleep", "1000"])
        return Scores(torch.full((len(images),), child.pid, dtype=torch.float64))

setattr(Toy, "raise", Toy.raise_)

class Bare(Toy):
    features = Reward.features

class Dice(Toy):
    pass
"""


def environment(folder: Path) -> Path:
    """A new environment with this one's third-party packages and nothing of the project's; its site-packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if "orwcfm" not in package.name:
            (site / package.name).symlink_to(package)
    return site


def toy_environment(folder: Path) -> None:
    """Make an environment with the core and these rewards."""
    site = environment(folder)
    (site / "core.pth").write_text(str(Path(inspect.getfile(Reward)).parents[1]))
    (site / "toy_plugin.py").write_text(PLUGIN)
    (site / "toy_reward.py").write_text(REWARD)
    info = site / "orwcfm_reward_toy-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orwcfm-reward-toy\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[orwcfm.rewards]\ntoy = toy_plugin\nbare = toy_plugin\ndice = toy_plugin\n")


def points(count: int = 3) -> torch.Tensor:
    """Samples, `(count, 2)`, the same each time."""
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(count))


def pid(reward: Reward) -> int:
    """Number of the reward's process."""
    return int(reward.score(points(1), ["pid"]).values)
