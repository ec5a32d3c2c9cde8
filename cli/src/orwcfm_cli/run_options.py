"""The options that configure a run, for the commands that make runs. Only what `--help` needs is imported here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from orwcfm_cli.options import Tables

__all__ = ["FLAGS", "asked_for", "one_or_list", "run_argument", "run_options"]

run_argument = click.argument("run", type=click.Path(path_type=Path))

F = TypeVar("F", bound=Callable[..., Any])

FLAGS = {
    "backbone": "backbone.name",
    "reward": "reward.name",
    "eval_reward": "heldout.name",
    "reg": "reg.name",
    "callback": "callback.name",
    "trainer": "train.name",
    "weighting": "weighting.name",
    "sampler": "sampler.name",
    "alpha": "reg.alpha",
    "tau": "weighting.tau",
    "rounds": "train.rounds",
    "early_stop": "train.early_stop",
    "seed": "train.seed",
    "device": "train.device",
    "precision": "train.precision",
    "compile": "train.compile",
    "threads": "train.threads",
    "prompt": "reward.prompt",
}
"""Which option each fixed flag sets."""

_OPTIONS = (
    click.option("--backbone", help="Generative model to fine-tune."),
    click.option("--reward", multiple=True, help="What is maximised; several as NAME:WEIGHT each."),
    click.option("--eval-reward", multiple=True, help="What judges and is not trained on; several times for several."),
    click.option(
        "--reg", multiple=True, help="What keeps the model near the pre-trained one; several as NAME:ALPHA each."
    ),
    click.option("--trainer", help="Training method."),
    click.option(
        "--preset",
        type=click.Choice(["balanced", "paper"]),
        help="What lies under all other options: the defaults (balanced), or the paper's settings.",
    ),
    click.option("--weighting", help="How scores become weights: advantage, group-advantage, exp, softmax, top-k."),
    click.option("--sampler", help="ODE solver: euler, midpoint, heun, adams, rk4, dopri5."),
    click.option("--alpha", help="Strength of the regularizer (reg.alpha)."),
    click.option("--tau", help="Strength of the reward (weighting.tau)."),
    click.option("--rounds", help="Rounds of sampling, scoring and updating (train.rounds)."),
    click.option(
        "--early-stop",
        is_flag=False,
        flag_value="20",
        metavar="[ROUNDS]",
        help="End with the best held-out score, once nothing was better for ROUNDS (20).",
    ),
    click.option("--seed", help="Seed of all random numbers (train.seed)."),
    click.option("--device", help="auto, cpu, cuda, ... (train.device)."),
    click.option("--precision", help="auto, fp32, bf16, fp16 (train.precision)."),
    click.option("--compile", flag_value="true", default=None, help="Compile the networks (train.compile)."),
    click.option("--threads", help="Threads of the CPU (train.threads)."),
    click.option("--prompt", multiple=True, help="Prompt; may be given several times."),
    click.option("--callback", multiple=True, help="What is told of the run's events; several times for several."),
    click.option("--set", "settings", multiple=True, metavar="SECTION.OPTION=VALUE", help="Set any option."),
    click.option("--config", type=click.Path(path_type=Path), help="TOML file with sections of options."),
)


def run_options(command: F) -> F:
    """Give a command every option that configures a run; `asked_for` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def asked_for(given: dict[str, Any]) -> Tables:
    """The options of `run_options`, as tables by section.

    Args:
        given: What click passes.

    Raises:
        UserError: A file cannot be read, or a setting is malformed.
    """
    from orwcfm_cli.options import merge

    flags = {FLAGS[name]: value for name, value in given.items() if name in FLAGS and value not in (None, ())}
    fixed = {option: list(v) if option == "reward.prompt" else one_or_list(v) for option, v in flags.items()}
    return merge(given["config"], given["settings"], fixed, given["preset"])


def one_or_list(value: str | tuple[str, ...] | None) -> Any:
    """What a flag was given, once or several times."""
    if not isinstance(value, tuple):
        return value
    return value[0] if len(value) == 1 else list(value)
