"""The commands. Only what `--help` needs is imported here; each command imports the rest itself."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import click
from orwcfm_core.errors import RunError, UserError, printable

from orwcfm_cli.compare import compare
from orwcfm_cli.doctor import doctor
from orwcfm_cli.evaluate import evaluate
from orwcfm_cli.new import new
from orwcfm_cli.output import as_json, print_json, print_result, reserve_stdout
from orwcfm_cli.plugins import plugins
from orwcfm_cli.run_options import asked_for, one_or_list, run_argument, run_options
from orwcfm_cli.sweep import sweep

__all__ = ["cli", "main"]


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
@run_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; must not exist.  [default: runs/...]")
@click.option("--print-config", is_flag=True, help="Print the resolved configuration and stop.")
@click.option("--dry-run", is_flag=True, help="Build everything, do two rounds, print the plan and stop.")
@as_json
def run(out: Path | None, print_config: bool, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Fine-tune a model on a reward."""
    from orwcfm_core.registry import Registry
    from orwcfm_core.resolve import resolve

    from orwcfm_cli.options import to_toml

    resolved = resolve(asked_for(given), Registry())
    if print_config:
        if as_json:
            print_json(resolved.tables())
        else:
            click.echo(to_toml(resolved.tables()), nl=False)
        return
    from orwcfm_cli import runner

    print_result(runner.plan(resolved, out) if dry_run else runner.start(resolved, out), as_json)


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

    flags = {"train.rounds": rounds, "callback.name": one_or_list(callback)}
    print_result(runner.resume(run, merge(None, settings, {option: v for option, v in flags.items() if v})), as_json)


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

    print_result(runner.sample(run, count, prompt, seed, reference, out), as_json)


@cli.command()
@run_argument
@as_json
def report(run: Path, as_json: bool) -> None:
    """Write RUN/report.html anew."""
    from orwcfm_cli.folder import RunFolder
    from orwcfm_cli.report import write_report

    print_result({"report": str(write_report(RunFolder.open(run).path))}, as_json)


for command in (sweep, compare, evaluate, new, plugins, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every mistake ends in one line and an exit code."""
    reserve_stdout()
    try:
        cli(standalone_mode=False)
    except click.ClickException as e:
        shown = io.StringIO()
        e.show(shown)
        click.echo("\n".join(map(printable, shown.getvalue().split("\n"))), nl=False, err=True)
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
