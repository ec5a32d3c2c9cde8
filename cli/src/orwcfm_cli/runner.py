"""Carries a run from its configuration to its report."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.checkpoint import load_checkpoint, load_sampling_policy, newest_checkpoint, save_checkpoint
from orwcfm_core.config import RunConfig
from orwcfm_core.errors import UserError
from orwcfm_core.evaluation import evaluate
from orwcfm_core.sampler import build_sampler
from orwcfm_core.trainer import State, Trainer, autocast, choose_precision, draw

from orwcfm_cli.assemble import assemble, choose_device
from orwcfm_cli.display import Display
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.pictures import save_grid
from orwcfm_cli.report import write_report

__all__ = ["plan", "resume", "sample", "start"]

_GRID = 64
"""Pictures in a grid."""
_EVALUATED = 1024
"""Samples that the reference and the final policy are measured on."""


def start(config: RunConfig, out: Path | None) -> dict[str, Any]:
    """Do a new run.

    Args:
        config: Its configuration.
        out: Its folder; None chooses one.

    Returns:
        Its summary.
    """
    folder = RunFolder.choose(out, config)
    trainer, state = assemble(config)
    with Display(config.train.rounds, done=0) as display:
        notes = _notes(state, config)
        for name, text in notes.items():
            display.note(f"{name.replace('_', ' ')}: {text}")
        # Before anything is written: a reward that cannot score these prompts says so here.
        reference = evaluate(state, _EVALUATED, config.train.micro_batch)
        folder.make()
        display.note(f"run folder: {folder.path}")
        folder.write_config(config, notes)
        folder.write_json("reference.json", reference)
        _picture(state, folder, config)
        save_checkpoint(state, folder.checkpoints, config.train.keep)
        return _go_on(trainer, state, folder, config, display)


def resume(path: Path) -> dict[str, Any]:
    """Go on with a run from its newest checkpoint.

    Args:
        path: Its folder.

    Returns:
        Its summary.
    """
    folder = RunFolder.open(path)
    config = folder.read_config()
    checkpoint = newest_checkpoint(folder.checkpoints)
    trainer, state = assemble(config)
    load_checkpoint(state, checkpoint)
    folder.rewind(state.round)
    with Display(config.train.rounds, done=state.round) as display:
        display.note(f"run folder {folder.path}, from round {state.round}")
        return _go_on(trainer, state, folder, config, display)


def plan(config: RunConfig) -> dict[str, Any]:
    """Build everything, do two rounds and an evaluation that are thrown away, and say what a run would take.

    Args:
        config: The run's configuration.

    Returns:
        The plan: seconds, GiB and counts.
    """
    trainer, state = assemble(config)
    train = config.train
    # The first round warms up.
    trainer.round(state)
    began = time.perf_counter()
    first = trainer.round(state)
    round_seconds = time.perf_counter() - began
    evaluate(state, _EVALUATED, train.micro_batch)
    evaluation_seconds = time.perf_counter() - began - round_seconds
    if state.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(state.device) / 2**30
    else:
        unit = 2**30 if sys.platform == "darwin" else 2**20
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {
        "device": f"{state.device}, {state.precision}",
        "reward": state.components.reward.describe(),
        "heldout": config.heldout.name if config.heldout else "none",
        "rounds": train.rounds,
        "samples": train.rounds * train.samples,
        "model_evaluations": train.rounds * int(first["nfe"]),
        "trainable_parameters": sum(p.numel() for p in state.ema.parameters),
        "memory_gib": memory,
        "seconds_per_round": round_seconds,
        "seconds": round_seconds * train.rounds + 2 * evaluation_seconds,
    }


def sample(
    path: Path, count: int, prompts: Sequence[str], seed: int, reference: bool, out: Path | None
) -> dict[str, Any]:
    """Draw a grid of pictures from a run's newest checkpoint.

    Args:
        path: The run's folder.
        count: Pictures.
        prompts: Prompts, shared among the pictures; none means those of the run.
        seed: Seed of the noise.
        reference: Draw from the model before fine-tuning instead.
        out: PNG file; None means `sample.png` in the run's folder.

    Returns:
        Where the picture is.
    """
    folder = RunFolder.open(path)
    config = folder.read_config()
    if out and out.is_dir():
        raise UserError(f"--out {out}: expected a PNG file, got a folder")
    torch.set_flush_denormal(True)
    device = choose_device(config.train.device)
    backbone = config.backbone.plugin.build(config.backbone.config, Backbone)
    if prompts and not backbone.encode(prompts):
        raise UserError(f"--prompt: backbone '{config.backbone.name}' is unconditional here, and reads no prompt")
    checkpoint = newest_checkpoint(folder.checkpoints)
    load_sampling_policy(backbone.policy(), checkpoint)
    backbone.to(device)
    field = backbone.reference() if reference else backbone.policy()
    noise, texts = _noise(backbone, count, seed, device), _shared(prompts or config.prompts, count)
    sampler, micro_batch = build_sampler(config.sampler), config.train.micro_batch
    with autocast(device, choose_precision(config.train.precision, device)):
        x_1, _ = draw(backbone, field, sampler, noise, texts, micro_batch)
    target = out or folder.path / "sample.png"
    save_grid(target, backbone.to_images(x_1).cpu())
    return {"picture": str(target), "count": count, "round": 0 if reference else int(checkpoint.name[6:])}


def _go_on(trainer: Trainer, state: State, folder: RunFolder, config: RunConfig, display: Display) -> dict[str, Any]:
    """Do the rounds that are left, then measure and report."""
    train = config.train
    with _interruptible() as interrupted:
        while state.round < train.rounds and not interrupted():
            metrics = trainer.round(state)
            folder.append_metrics(metrics)
            display.round(metrics)
            if state.round % train.grid_every == 0 or state.round == train.rounds:
                _picture(state, folder, config)
            if state.round % train.checkpoint_every == 0 or state.round == train.rounds:
                save_checkpoint(state, folder.checkpoints, train.keep)
    if state.round < train.rounds:
        save_checkpoint(state, folder.checkpoints, train.keep)
        write_report(folder.path)
        display.note(f"interrupted and saved after round {state.round}; go on with: orwcfm resume {folder.path}")
        raise SystemExit(130)
    final = evaluate(state, _EVALUATED, train.micro_batch)
    folder.write_json("final.json", final)
    return {**final, "run": str(folder.path), "report": str(write_report(folder.path))}


def _notes(state: State, config: RunConfig) -> dict[str, str]:
    """What the components say of themselves, for the screen and the report."""
    parts = state.components
    prompts = ", ".join(f"'{prompt}'" for prompt in config.prompts if prompt)
    judges = ", ".join(f"{name}, {judge.describe()}" for name, judge in parts.heldout.items())
    x = torch.zeros((1, *parts.backbone.sample_shape), device=state.device)
    space = parts.feature_space
    with torch.no_grad():
        embeds = space is not None and space.features(parts.backbone.to_images(x)) is not None
    return {
        "reward": f"{config.reward.name}, {parts.reward.describe()}",
        "prompt": prompts or "none",
        "held_out_judge": judges or "none",
        "feature_space": f"features of {next(iter(parts.heldout), config.reward.name)}" if embeds else "pixels",
        "device": f"{state.device}, {state.precision}",
    }


def _picture(state: State, folder: RunFolder, config: RunConfig) -> None:
    """Draw the grid of this round, from the same noise of its own every time, so that training is not disturbed."""
    backbone = state.components.backbone
    noise = _noise(backbone, _GRID, config.train.seed, state.device)
    x_1, _ = state.sample(noise, _shared(config.prompts, _GRID), config.train.micro_batch)
    save_grid(folder.grid(state.round), backbone.to_images(x_1).cpu())


def _noise(backbone: Backbone, count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Standard normal noise of a seed, `(count, *)`."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn((count, *backbone.sample_shape), generator=generator, device=device)


def _shared(prompts: Sequence[str], count: int) -> list[str]:
    """Prompts for `count` pictures, in turn."""
    return [prompts[i % len(prompts)] for i in range(count)]


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C (or SIGTERM) end the round and save; a second one ends at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
