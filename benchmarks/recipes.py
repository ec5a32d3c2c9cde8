"""The paper's experiments on the shipped models: does the sweeps of docs/recipes and writes docs/results.md.

    python benchmarks/recipes.py sweeps
    python benchmarks/recipes.py sweeps --only compression

Sweeps that are there already go on where they are. One thread for each process; about two hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from charts import COLOURS, Panel, Series, save
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.trained import Trained
from page import DOCS, IMAGES, row, write
from PIL import Image
from shares import likely
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

PAGE = DOCS / "results.md"
DIGITS = range(10)
PAPER: Mapping[float, tuple[float, float | None]] = {
    0: (-0.67, 0.096),
    0.05: (-0.72, 0.073),
    0.1: (-0.82, 0.049),
    0.2: (-1.0, 0.026),
    0.3: (-1.04, 0.016),
    0.5: (-1.15, 0.006),
    0.8: (-1.19, None),
    1: (-1.2, 0.003),
}
PAPER_REFERENCE = -1.287
"""Reward (minus kB) and divergence along alpha, read off the paper's figure to about 2 % of its axes."""

Sweep = Mapping[str, Any]


def digits(path: Path, option: str, labels: Mapping[Any, str], name: str) -> Iterator[str]:
    """A table of settings, with a histogram of digits and pictures from the same noise."""
    sweep = read(path)
    histograms: dict[str, list[float]] = {}
    strips: list[torch.Tensor] = []
    for setting in sweep["settings"]:
        value = setting["grid"][option]
        models = [load(path / "runs" / run["run"]) for run in sweep["runs"] if run["grid"][option] == value]
        if not histograms:
            histograms["pre-trained"] = histogram(models[:1], reference=True)
            strips.append(strip(models[0], reference=True))
        histograms[labels[value]] = histogram(models, reference=False)
        strips.append(strip(models[0], reference=False))
    save(IMAGES / f"results-{name}.png", [bars(histograms)])
    stack(IMAGES / f"results-{name}-samples.png", strips)
    yield row("", "reward", "judge", "diversity kept", "divergence", *(f"{k}" for k in DIGITS))
    reference = sweep["runs"][0]["reference"]
    scores = (reference["reward_mean"], judged(reference))
    yield row("pre-trained", *(f"{score:.3f}" for score in scores), "", "", *listed(histograms["pre-trained"]))
    for setting in sweep["settings"]:
        label = labels[setting["grid"][option]]
        yield row(label, *measures(sweep, setting), *listed(histograms[label]))


def compression(path: Path) -> Iterator[str]:
    """Reward and divergence along alpha, as shares of what alpha = 0 comes to, beside the paper's."""
    sweep = read(path)
    start = sweep["runs"][0]["reference"]["reward_mean"]
    found = {
        s["grid"]["reg.alpha"]: [s["measures"][m] for m in ("reward_mean", "velocity_divergence")]
        for s in sweep["settings"]
    }
    highest, farthest = max(r for r, _ in PAPER.values()), max(d for _, d in PAPER.values() if d is not None)
    theirs = {
        "gain": [(a, (r - PAPER_REFERENCE) / (highest - PAPER_REFERENCE)) for a, (r, _) in PAPER.items()],
        "divergence": [(a, d / farthest) for a, (_, d) in PAPER.items() if d is not None],
    }
    yield row("alpha", "reward", "gain, of that at 0", "paper's", "divergence", "of that at 0", "paper's")
    gains, far = {}, {}
    for alpha, (reward, divergence) in found.items():
        gains[alpha] = (reward["mean"] - start) / (found[0][0]["mean"] - start)
        far[alpha] = divergence["mean"] / found[0][1]["mean"]
        gain, distance = (dict(theirs[measure]).get(alpha) for measure in ("gain", "divergence"))
        cells = [f"{alpha:g}", value(reward), f"{gains[alpha]:.2f}", f"{gain:.2f}", value(divergence, 4)]
        yield row(*cells, f"{far[alpha]:.2f}", f"{distance:.2f}" if distance else "")
    ticks = ([0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.2, 0.4, 0.6, 0.8, 1])
    panels = []
    for title, ours in (("gain", gains), ("divergence", far)):
        x, y = zip(*theirs[title], strict=True)
        series = [
            Series("here", COLOURS[0], list(ours), list(ours.values())),
            Series("the paper, CIFAR-10", COLOURS[1], x, y),
        ]
        label = {"gain": "Reward gained", "divergence": "Velocity divergence"}[title]
        panels.append(Panel(label, "alpha", "share of that at alpha = 0", series, ticks))
    save(IMAGES / "results-compression.png", panels)


def prompts(path: Path) -> Iterator[str]:
    """Each prompt with and without the anchor."""
    sweep = read(path)
    strips: list[torch.Tensor] = []
    yield row("prompt", "alpha", "reward", "judge", "diversity kept", "divergence")
    for setting in sweep["settings"]:
        prompt, alpha = setting["grid"]["reward.prompt"], setting["grid"]["reg.alpha"]
        yield row(", ".join(prompt), f"{alpha:g}", *measures(sweep, setting))
        run = next(run for run in sweep["runs"] if setting["grid"].items() <= run["grid"].items())
        model = load(path / "runs" / run["run"])
        if not strips:
            strips.append(strip(model, reference=True))
        strips.append(strip(model, reference=False))
    stack(IMAGES / "results-prompts-samples.png", strips)


def read(path: Path) -> Sweep:
    return json.loads((path / "results.json").read_text())


def load(path: Path) -> Trained:
    folder = RunFolder.open(path)
    return Trained.load(folder, folder.read_config())


def judged(measured: Mapping[str, Any]) -> Any:
    """The held-out score: a number among a run's measures, mean and standard error among a setting's."""
    return next(number for name, number in measured.items() if name.startswith("heldout_"))


def value(measure: Mapping[str, Any], decimals: int = 3) -> str:
    """Mean and, of several seeds, standard error."""
    mean, error = f"{measure['mean']:.{decimals}f}", measure["standard_error"]
    return mean if error is None else f"{mean} ± {error:.{decimals}f}"


def measures(sweep: Sweep, setting: Mapping[str, Any]) -> Iterator[str]:
    """Reward, held-out score, diversity as a share of the reference's (of satisfying samples, if told), divergence."""
    found = setting["measures"]
    yield value(found["reward_mean"])
    yield value(judged(found))
    before = sweep["runs"][0]["reference"]
    diversity = "satisfying_diversity" if "satisfying_diversity" in before else "diversity"
    kept = found.get(diversity)
    # Not there where hardly any sample satisfies the judge.
    yield f"{kept['mean'] / before[diversity]:.2f}" if kept else "none satisfies"
    yield value(found["velocity_divergence"], 4)


def histogram(models: Iterable[Trained], reference: bool) -> list[float]:
    """Shares of the digits among samples, by the classifier."""
    labels = torch.cat([likely(model, model.config.prompts[0], "mnist", 2048, reference).argmax(1) for model in models])
    return (torch.bincount(labels, minlength=10) / len(labels)).tolist()


def listed(shares: Sequence[float]) -> Iterator[str]:
    return (f"{share:.2f}".removeprefix("0") for share in shares)


def bars(histograms: Mapping[str, Sequence[float]]) -> Panel:
    """Histograms of the digits beside each other."""
    width = 0.8 / len(histograms)
    series = [
        Series(
            label, COLOURS[(i - 1) % len(COLOURS)], [k + (i + 0.5) * width - 0.4 for k in DIGITS], shares, width=width
        )
        for i, (label, shares) in enumerate(histograms.items())
    ]
    ticks = (DIGITS, [0, 0.2, 0.4, 0.6, 0.8, 1])
    return Panel("Digits drawn", "digit", "share", series, ticks, margin=0.5)


def strip(model: Trained, reference: bool, count: int = 24) -> torch.Tensor:
    """Pictures from the same noise each time, side by side."""
    noise = torch.randn(count, *model.backbone.sample_shape, generator=torch.Generator().manual_seed(3))
    drawn = model.draw(reference, noise.to(model.device), [model.config.prompts[0]] * count)
    return make_grid(model.backbone.to_images(drawn).cpu(), nrow=count, padding=1)


def stack(path: Path, strips: Sequence[torch.Tensor]) -> None:
    """Write strips below each other."""
    picture = to_pil_image(torch.cat(list(strips), dim=1)).convert("L")
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path, optimize=True)


ALPHAS = {0.0: "alpha 0", 0.3: "alpha 0.3", 0.8: "alpha 0.8"}
RECIPES: Mapping[str, Callable[[Path], Iterator[str]]] = {
    "even-digits-online": lambda path: digits(path, "train.name", {"orw-cfm": "online", "rwr": "offline"}, "online"),
    "even-digits-tau": lambda path: digits(
        path, "weighting.tau", {0.5: "tau 0.5", 2.0: "tau 2", 10.0: "tau 10"}, "tau"
    ),
    "even-digits-alpha": lambda path: digits(path, "reg.alpha", ALPHAS, "alpha"),
    "even-digits-long": lambda path: digits(path, "reg.alpha", ALPHAS, "long"),
    "compression": compression,
    "prompts": prompts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, help="folder of the sweeps")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    for name in args.only:
        command = [
            str(Path(sys.executable).with_name("orwcfm")),
            "sweep",
            "--config",
            str(DOCS / "recipes" / f"{name}.toml"),
        ]
        command += ["--processes", str(args.processes), "--out", str(args.sweeps / name)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        write(PAGE, name, RECIPES[name](args.sweeps / name))


if __name__ == "__main__":
    main()
