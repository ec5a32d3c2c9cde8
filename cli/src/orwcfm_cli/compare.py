"""The command `compare`: several runs on one page. Only what `--help` needs is imported here, and torch never."""

from __future__ import annotations

from pathlib import Path

import click

from orwcfm_cli.output import aligned, as_json, check_out, print_json

__all__ = ["compare"]


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("compare.html"),
    show_default=True,
    help="HTML page to write.",
)
@as_json
def compare(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Compare runs, or all runs of sweeps, on one page: curves, what gains cost, and what differs."""
    from orwcfm_cli.compare_report import Comparison, find_runs, write_comparison

    comparison = Comparison(find_runs(runs))
    check_out(out, "an HTML file")
    write_comparison(comparison, out)
    if as_json:
        print_json({**comparison.about(), "page": str(out)})
        return
    click.echo("\n".join([*aligned(comparison.rows(), None), "", *comparison.notes()]).rstrip())
    click.echo(f"\npage  {out}")
