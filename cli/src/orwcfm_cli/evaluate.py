"""The command `eval`: a closer look at what a run learned. Only what `--help` needs is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orwcfm_cli.output import aligned, as_json, check_out, print_json
from orwcfm_cli.run_options import run_argument

__all__ = ["evaluate"]

SEED = 1_000_000_007
"""Of no training by accident, and not the one of final.json."""


@click.command("eval")
@run_argument
@click.option("--reward", multiple=True, help="What scores, several times for several.  [default: those of the run]")
@click.option("--set", "settings", multiple=True, metavar="reward.OPTION=VALUE", help="Set an option of a reward.")
@click.option("--samples", type=click.IntRange(8, 10_000_000), default=1024, show_default=True, help="Samples to draw.")
@click.option(
    "--feature-space",
    help="Where distances are measured: a reward that has features, pixels, or samples (as the model makes them).  "
    "[default: that of the run]",
)
@click.option(
    "--normalised/--raw",
    default=True,
    show_default=True,
    help="Diversity of features that are scaled to length 1 first, or as they are: two scales, never to be mixed.",
)
@click.option("--real", type=click.Path(path_type=Path), help="Folder of real images, for the Fréchet distance.")
@click.option("--reference", is_flag=True, help="Measure the pre-trained model as well, from the same noise.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=SEED, show_default=True, help="Seed of the noise.")
@click.option(
    "--checkpoint",
    type=click.Choice(["newest", "best"]),
    default="newest",
    show_default=True,
    help="Which one of the run's; best is by the held-out score.",
)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write the result to as well.")
@as_json
def evaluate(out: Path | None, as_json: bool, **given: Any) -> None:
    """Measure a fine-tuned model on fresh samples, with 95 % confidence intervals."""
    if out:
        check_out(out, "a JSON file")
    from orwcfm_cli.evaluate_run import Request, evaluate_run

    result = evaluate_run(Request(**given))
    if out:
        import json

        from orwcfm_cli.atomic import replace_file

        replace_file(out, (json.dumps(result, indent=1) + "\n").encode())
    if as_json:
        print_json(result)
        return
    click.echo("\n".join(_lines(result)))


def _lines(result: dict[str, Any]) -> list[str]:
    """The result for a person: a row per measure, a column per sampled model."""
    columns = [name for name in ("policy", "reference", "difference", "real") if result[name]]
    keys = list(dict.fromkeys(key for name in columns for key in result[name]))
    rows = [["", *columns]]
    rows += [[result["names"][key], *(_cell(result[name].get(key)) for name in columns)] for key in keys]
    scale = "scaled to length 1" if result["normalised"] else "as they are"
    notes = [
        f"{result['samples']:,} samples of round {result['round']} ({result['checkpoint']} checkpoint), seed "
        f"{result['seed']}; 95 % intervals",
        f"diversity: features of {result['feature_space']}, {scale}; Vendi score: scaled to length 1; "
        "Fréchet distance: as they are",
    ]
    if result["features"] >= result["samples"]:
        notes.append(
            f"Vendi score and Fréchet distance need more samples than the {result['features']} features: draw more, or "
            "compare only with the same number of samples"
        )
    if result["not_finite"]:
        notes.append(f"{result['not_finite']} samples are not finite; they are left out")
    notes += [f"{count} samples could not be scored by {name}" for name, count in result["invalid"].items() if count]
    return [*aligned(rows, None), "", *notes]


def _cell(estimate: dict[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "none" if value is None else f"{value:.4g}"
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"
