"""The commands. Only what `--help` needs is imported here; each command imports the rest itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from orwcfm_core.errors import RunError, UserError, printable

from orwcfm_cli.doctor import doctor
from orwcfm_cli.new import new
from orwcfm_cli.output import as_json, reserve_stdout
from orwcfm_cli.plugins import plugins

__all__ = ["cli", "main"]

_FLAGS = {
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
}
"""Which option each fixed flag of `run` sets."""

run_argument = click.argument("run", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--no-plugins", is_flag=True, help="Use nothing but what comes with the core.")
@click.version_option(package_name="orwcfm")
def cli(no_plugins: bool) -> None:
    """Fine-tune a flow matching model on a reward, online, and keep its diversity."""
    if no_plugins:
        from orwcfm_core.registry import ALLOW

        # In the environment, so that it also holds in the processes that this one starts.
        os.environ[ALLOW] = ""


@cli.command()
@click.option("--backbone", help="Generative model to fine-tune.")
@click.option("--reward", multiple=True, help="What is maximised; several as NAME:WEIGHT each.")
@click.option("--eval-reward", multiple=True, help="What judges and is not trained on; several times for several.")
@click.option("--reg", multiple=True, help="What keeps the model near the pre-trained one; several as NAME:ALPHA each.")
@click.option("--trainer", help="Training method.")
@click.option("--weighting", help="How scores become weights: advantage, exp, softmax, top-k.")
@click.option("--sampler", help="ODE solver: euler, midpoint, heun, rk4, dopri5.")
@click.option("--alpha", help="Strength of the regularizer (reg.alpha).")
@click.option("--tau", help="Strength of the reward (weighting.tau).")
@click.option("--rounds", help="Rounds of sampling, scoring and updating (train.rounds).")
@click.option(
    "--early-stop",
    is_flag=False,
    flag_value="20",
    metavar="[ROUNDS]",
    help="End with the best held-out score, once nothing was better for ROUNDS (20).",
)
@click.option("--seed", help="Seed of all random numbers (train.seed).")
@click.option("--device", help="auto, cpu, cuda, ... (train.device).")
@click.option("--precision", help="auto, fp32, bf16, fp16 (train.precision).")
@click.option("--compile", flag_value="true", default=None, help="Compile the networks (train.compile).")
@click.option("--threads", help="Threads of the CPU (train.threads).")
@click.option("--prompt", multiple=True, help="Prompt; may be given several times.")
@click.option("--callback", multiple=True, help="What is told of the run's events; several times for several.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.OPTION=VALUE", help="Set any option.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with sections of options.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; must not exist.  [default: runs/...]")
@click.option("--print-config", is_flag=True, help="Print the resolved configuration and stop.")
@click.option("--dry-run", is_flag=True, help="Build everything, do one round, print the plan and stop.")
@as_json
def run(
    prompt: tuple[str, ...],
    settings: tuple[str, ...],
    config: Path | None,
    out: Path | None,
    print_config: bool,
    dry_run: bool,
    as_json: bool,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """Fine-tune a model on a reward."""
    from orwcfm_core.registry import Registry
    from orwcfm_core.resolve import resolve

    from orwcfm_cli.options import merge, to_toml

    fixed: dict[str, Any] = {
        _FLAGS[flag]: _one_or_list(value) for flag, value in flags.items() if value not in (None, ())
    }
    if prompt:
        fixed["reward.prompt"] = list(prompt)
    resolved = resolve(merge(config, settings, fixed), Registry())
    if print_config:
        click.echo(to_toml(resolved.tables()), nl=False)
        return
    from orwcfm_cli import runner

    _print(runner.plan(resolved) if dry_run else runner.start(resolved, out), as_json)


@cli.command()
@run_argument
@click.option("--rounds", help="Rounds of the whole run (train.rounds).")
@click.option("--callback", multiple=True, help="What is told of the run's events from now on.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.OPTION=VALUE", help="Change an option.")
@as_json
def resume(run: Path, rounds: str | None, callback: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Go on with an interrupted run, exactly where it was."""
    from orwcfm_cli import runner
    from orwcfm_cli.options import merge

    flags = {"train.rounds": rounds, "callback.name": _one_or_list(callback)}
    _print(runner.resume(run, merge(None, settings, {option: v for option, v in flags.items() if v})), as_json)


@cli.command()
@run_argument
@click.option("--count", type=click.IntRange(1, 100_000), default=64, show_default=True, help="Pictures to draw.")
@click.option("--prompt", multiple=True, help="Prompt; may be given several times.  [default: those of the run]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the noise.")
@click.option("--reference", is_flag=True, help="Sample the model as it was before fine-tuning.")
@click.option("--out", type=click.Path(path_type=Path), help="PNG file.  [default: RUN/sample.png]")
@as_json
def sample(
    run: Path, count: int, prompt: tuple[str, ...], seed: int, reference: bool, out: Path | None, as_json: bool
) -> None:
    """Draw pictures from a fine-tuned model."""
    from orwcfm_cli import runner

    _print(runner.sample(run, count, prompt, seed, reference, out), as_json)


@cli.command()
@run_argument
@as_json
def report(run: Path, as_json: bool) -> None:
    """Write RUN/report.html anew."""
    from orwcfm_cli.folder import RunFolder
    from orwcfm_cli.report import write_report

    _print({"report": str(write_report(RunFolder.open(run).path))}, as_json)


cli.add_command(new)


cli.add_command(plugins)
cli.add_command(doctor)


def _one_or_list(value: str | tuple[str, ...] | None) -> Any:
    """What a flag was given, once or several times."""
    if not isinstance(value, tuple):
        return value
    return value[0] if len(value) == 1 else list(value)


def _print(result: dict[str, Any], as_json: bool) -> None:
    """Print a command's result, for a person or for a program."""
    if as_json:
        click.echo(json.dumps(result))
        return
    result = {key: value for key, value in result.items() if not isinstance(value, dict)}
    width = max(len(key) for key in result)
    for key, value in result.items():
        text = f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
        click.echo(f"{key.replace('_', ' '):<{width}}  {text}")


def main() -> None:
    """Run the command line; every mistake ends in one line and an exit code."""
    reserve_stdout()
    try:
        cli(standalone_mode=False)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except click.Abort:
        click.echo("interrupted; what a run has saved stays, and orwcfm resume goes on with it", err=True)
        sys.exit(130)
    except (UserError, RunError) as e:
        for line in str(e).split("\n"):
            click.echo(f"error: {printable(line)}", err=True)
        sys.exit(e.exit_code)
    except OSError as e:
        click.echo(f"error: {printable(str(e.filename or 'file'))}: {e.strerror or e}", err=True)
        sys.exit(RunError.exit_code)
