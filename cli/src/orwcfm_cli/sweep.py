"""The command `sweep`: a grid of runs. Only what `--help` needs is imported here, and torch never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from orwcfm_core.errors import RunError, UserError

from orwcfm_cli.output import as_json, print_result
from orwcfm_cli.run_options import asked_for, run_options

__all__ = ["sweep"]


@click.command()
@run_options
@click.option(
    "--grid",
    multiple=True,
    metavar="OPTION=VALUE,VALUE",
    help="Values of an option, SECTION.OPTION or short as the flags above; several times for all combinations.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the sweep; an earlier one goes on or grows.")
@click.option("--resume", type=click.Path(path_type=Path), help="Folder of a sweep to go on with, as it is.")
@click.option("--processes", type=click.IntRange(1, 1024), default=1, show_default=True, help="Runs at a time.")
@as_json
def sweep(
    grid: tuple[str, ...], out: Path | None, resume: Path | None, processes: int, as_json: bool, **given: Any
) -> None:
    """Do a run for every combination of some options' values, and compare them.

    The same line again finishes what is missing; with more values, it adds their runs.
    """
    from orwcfm_cli.options import check_preset
    from orwcfm_cli.sweep_grid import Grid
    from orwcfm_cli.sweep_run import go_on, start

    if resume:
        _alone({**given, "grid": grid, "out": out})
        result = go_on(resume, processes)
    else:
        base = asked_for(given)
        axes = Grid.of_table(base.pop("grid", {})).axes
        if not (grid or axes) or not out:
            raise UserError(
                "a sweep needs --grid OPTION=VALUE,VALUE, or [grid] in the file of --config, and --out FOLDER, in "
                "which the same line goes on"
            )
        whole = Grid({**axes, **Grid.parse(grid).axes})
        line = asked_for({**given, "config": None, "preset": None})
        line.pop("grid", None)
        whole.check_line(base, line)
        check_preset(given["preset"], whole.axes.get("train.name", ()))
        result = start(out, base, whole, processes)
    failed = result["failed"]
    print_result(result if as_json else {**result, "failed": len(failed)}, as_json)
    if failed:
        lines = "\n".join(f"{name}: {error}" for name, error in failed.items())
        raise RunError(f"{lines}\n{len(failed)} of {result['runs']} runs failed; the same line tries them again")


def _alone(others: dict[str, Any]) -> None:
    """See that nothing is given beside --resume."""
    names = [
        "set" if name == "settings" else name.replace("_", "-") for name, v in others.items() if v not in (None, ())
    ]
    if names:
        raise UserError(f"--resume goes on with a sweep as it is: leave out --{', --'.join(names)}")
