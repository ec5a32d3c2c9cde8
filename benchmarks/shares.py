"""How a run's model shares its samples among the classes that its prompt names, against the reference's shares.

    orwcfm sweep --reward clip-score --reg w2 --alpha 0.1 --grid seed=0,1,2,3,4 --processes 2 --out footwear
    python benchmarks/shares.py footwear --prompt footwear

For each run of the sweeps it prints the mean probability of the prompt's classes by the held-out classifier, the shares
of samples of which each of these classes is the likeliest, among those of which any is, and half the sum of absolute
differences from the reference's shares: the total variation. With `--tilts 10 30`, the same of the reference's samples
weighted by exp(10 r) and exp(30 r), r being the first run's reward: what there is to reach without a better model.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from orwcfm_cli.assemble import build_judge
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.trained import Trained
from orwcfm_reward_classifier.reward import load, prepare
from orwcfm_reward_classifier.vocabulary import CLASSES
from torch import Tensor

BATCH = 256


@torch.no_grad()
def drawn(model: Trained, prompt: str, count: int, reference: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of samples from the same noise each time, `(B, *)`, and their images, `(B, C, H, W)`."""
    generator = torch.Generator().manual_seed(1_000_000_007)
    for _ in range(count // BATCH):
        noise = torch.randn(BATCH, *model.backbone.sample_shape, generator=generator).to(model.device)
        x_1 = model.draw(reference, noise, [prompt] * BATCH)
        yield x_1, model.backbone.to_images(x_1)


@torch.no_grad()
def likely(model: Trained, prompt: str, data: str, count: int, reference: bool) -> Tensor:
    """The classifier's probabilities of each class, `(count, 10)`."""
    classifier = load(data).classifier.to(model.device)
    batches = drawn(model, prompt, count, reference)
    return torch.cat([classifier(prepare(images)).softmax(1).double().cpu() for _, images in batches])


def rewards(model: Trained, prompt: str, count: int) -> Tensor:
    """Scores of the reference's samples by the run's first reward, `(count,)`."""
    judge = build_judge(model.config.rewards[0])
    judge.reward.to(model.device)
    batches = drawn(model, prompt, count, reference=True)
    return torch.cat([judge.score(x_1, images, [prompt] * BATCH)[0].double().cpu() for x_1, images in batches])


def shares(p: Tensor, classes: list[int], weights: Tensor | None = None) -> Tensor:
    """Shares of samples of which each class is the likeliest, among those of `classes`."""
    counts = torch.bincount(p.argmax(1), weights, minlength=p.shape[1])[classes].double()
    return counts / counts.sum()


def runs_in(sweeps: Iterable[Path]) -> Iterable[Path]:
    for sweep in sweeps:
        yield from sorted(final.parent for final in sweep.glob("runs/*/final.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--data", choices=list(CLASSES), default="fashion")
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--tilts", type=float, nargs="+", default=[], help="strengths k of exp(k r)")
    args = parser.parse_args()
    paths = list(runs_in(args.sweeps))
    if not paths:
        parser.error(f"no run in {', '.join(map(str, args.sweeps))} is done: orwcfm sweep --resume goes on")
    classes = sorted(load(args.data).vocabulary.named(args.prompt))
    names = [CLASSES[args.data][k] for k in classes]
    print(f"| run | judge | {' | '.join(names)} | total variation |")
    print("|---" * (len(names) + 3) + "|")
    expected, judged, distances = None, [], []
    for path in paths:
        folder = RunFolder.open(path)
        model = Trained.load(folder, folder.read_config())
        if expected is None:
            p = likely(model, args.prompt, args.data, args.samples, reference=True)
            expected = shares(p, classes)
            print(row("reference", p[:, classes].sum(1).mean(), expected, None))
            if args.tilts:
                r = rewards(model, args.prompt, args.samples)
                for k in args.tilts:
                    w = (k * r).softmax(0)
                    mean, found = (w * p[:, classes].sum(1)).sum(), shares(p, classes, w)
                    print(row(f"reference, exp({k:g} r)", mean, found, variation(found, expected)))
        p = likely(model, args.prompt, args.data, args.samples, reference=False)
        found = shares(p, classes)
        judged.append(float(p[:, classes].sum(1).mean()))
        distances.append(variation(found, expected))
        print(row(path.name, judged[-1], found, distances[-1]), flush=True)
    print(f"\nmean judge {statistics.mean(judged):.3f} (least {min(judged):.3f}), ", end="")
    print(f"mean total variation {statistics.mean(distances):.3f} (most {max(distances):.3f})")


def variation(found: Tensor, expected: Tensor) -> float:
    """Total variation between shares."""
    return float((found - expected).abs().sum()) / 2


def row(name: str, judge: float | Tensor, found: Tensor, distance: float | None) -> str:
    cells = [name, f"{judge:.3f}", *(f"{share:.3f}" for share in found.tolist())]
    return f"| {' | '.join(cells)} | {'' if distance is None else f'{distance:.3f}'} |"


if __name__ == "__main__":
    main()
