"""Carries a run from its configuration to its report."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from orwcfm_core.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from orwcfm_core.config import RunConfig
from orwcfm_core.errors import UserError
from orwcfm_core.evaluation import evaluate
from orwcfm_core.memory import check_room
from orwcfm_core.reward import Judge
from orwcfm_core.trainer import State, Trainer

from orwcfm_cli.assemble import assemble, build_callbacks
from orwcfm_cli.culprit import guarded
from orwcfm_cli.display import Display
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.grids import noise_of, save_round, shared
from orwcfm_cli.lock import lock
from orwcfm_cli.options import Tables
from orwcfm_cli.output import check_out
from orwcfm_cli.pictures import save_grid
from orwcfm_cli.scales import scale_report
from orwcfm_cli.session import Session
from orwcfm_cli.trained import Trained

__all__ = ["plan", "resume", "sample", "start"]


def start(config: RunConfig, out: Path | None) -> dict[str, Any]:
    """Do a new run.

    Args:
        config: Its configuration.
        out: Its folder; None chooses one.

    Returns:
        Its summary.
    """
    folder = RunFolder.choose(out, config)
    callbacks = build_callbacks(config)
    with Display(config.train.rounds) as display:
        with guarded(config):
            trainer, state = _assembled(config)
            trainer.check(state.components)
            notes = _notes(state, config)
            for name, text in notes.items():
                display.note(f"{name.replace('_', ' ')}: {text}")
            if "trained_judges" in notes:
                display.note(
                    f"warning: heldout.name: a reward that is trained on judges nothing: {notes['trained_judges']}"
                )
            # Before anything is written: a reward that cannot score these prompts says so here.
            reference = evaluate(state, config.train.eval_samples)
        for line in scale_report(reference, config):
            display.note(line)
        folder = folder.make()
        with lock(folder.path):
            display.note(f"run folder: {folder.path}")
            folder.write_config(config, notes)
            _begin(state, folder, config, reference)
            return Session(trainer, state, folder, config, callbacks, display).go_on()


def resume(path: Path, changes: Tables) -> dict[str, Any]:
    """Go on with a run from its newest checkpoint.

    Args:
        path: Its folder.
        changes: Options by section that are other than they were; see `folder.CHANGEABLE`.

    Returns:
        Its summary.
    """
    folder = RunFolder.open(path)
    with lock(folder.path):
        config = folder.read_config(changes)
        with Display(config.train.rounds) as display:
            checkpoint = None if folder.unstarted else newest_checkpoint(folder.checkpoints)
            callbacks = build_callbacks(config)
            with guarded(config):
                trainer, state = _assembled(config)
                if checkpoint:
                    load_checkpoint(state, checkpoint)
                    if "micro_batch" in changes.get("train", {}):
                        state.micro_batch = config.train.micro_batch
                if config.train.rounds < state.round:
                    raise UserError(
                        f"train.rounds: expected at least the {state.round} that are done, got {config.train.rounds}"
                    )
                if changes:
                    folder.write_config(config, _notes(state, config))
                missing = folder.rewind(state.round, state.round < config.train.rounds)
                if missing:
                    display.note(f"warning: metrics.jsonl has no line of {missing} of the rounds that are done")
                if not checkpoint:
                    _begin(state, folder, config, evaluate(state, config.train.eval_samples))
            display.starts_after(state.round)
            display.note(f"run folder {folder.path}, from round {state.round}")
            return Session(trainer, state, folder, config, callbacks, display).go_on()


def _assembled(config: RunConfig) -> tuple[Trainer, State]:
    """Trainer and state of a run that fits into memory."""
    trainer, state = assemble(config)
    train, backbone = config.train, state.components.backbone
    x = torch.zeros((1, *backbone.sample_shape), device=state.device)
    with torch.no_grad():
        pixels = backbone.to_images(x).numel()
        condition = sum(value.nbytes for value in backbone.encode([state.components.prompts[0]]).values())
    check_room(train, x.numel(), pixels, condition, state.device)
    return trainer, state


def _begin(state: State, folder: RunFolder, config: RunConfig, reference: dict[str, Any]) -> None:
    """Write what there is before the first round."""
    folder.write_json("reference.json", reference)
    save_round(state, folder, config)
    save_checkpoint(state, folder.checkpoints, config.train.keep)


def plan(config: RunConfig, out: Path | None) -> dict[str, Any]:
    """Build everything, do two rounds and an evaluation that are thrown away, and say what a run would take.

    Args:
        config: The run's configuration.
        out: The run's folder, in which nothing is written; None chooses one.

    Returns:
        The plan: seconds, GiB and counts.
    """
    RunFolder.choose(out, config)
    with guarded(config):
        return _planned(config)


def _planned(config: RunConfig) -> dict[str, Any]:
    build_callbacks(config)
    trainer, state = _assembled(config)
    train = config.train
    # The first round warms up.
    trainer.round(state)
    began = time.perf_counter()
    first = trainer.round(state)
    round_seconds = time.perf_counter() - began
    evaluate(state, config.train.eval_samples)
    evaluation_seconds = time.perf_counter() - began - round_seconds
    if state.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(state.device) / 2**30
    else:
        unit = 2**30 if sys.platform == "darwin" else 2**20
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {
        "device": f"{state.device}, {state.precision}",
        "reward": _described(state.components.objective.terms),
        "heldout": ", ".join(choice.name for choice in config.heldout) or "none",
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
    config = folder.read_config(scored=False)
    if out:
        check_out(out, "a PNG file")
    with guarded(config, "--count"):
        model = Trained.load(folder, config)
        backbone = model.backbone
        if prompts and not backbone.encode(prompts):
            raise UserError(f"--prompt: backbone '{config.backbone.name}' is unconditional here, and reads no prompt")
        noise = noise_of(backbone, count, seed, model.device)
        x_1 = model.draw(reference, noise, shared(prompts or config.prompts, count))
        target = out or folder.path / "sample.png"
        save_grid(target, backbone.to_images(x_1).cpu())
    return {"picture": str(target), "count": count, "round": 0 if reference else model.round}


def _notes(state: State, config: RunConfig) -> dict[str, str]:
    """What the components say of themselves, for the screen and the report."""
    parts = state.components
    prompts = ", ".join(f"'{prompt}'" for prompt in config.prompts if prompt)
    x = torch.zeros((1, *parts.backbone.sample_shape), device=state.device)
    space = parts.feature_space
    rewards = [(choice.name, choice.config) for choice in config.rewards]
    trained = [judge.name for judge in config.heldout if (judge.name, judge.config) in rewards]
    with torch.no_grad():
        embeds = space is not None and space.features(x, parts.backbone.to_images(x)) is not None
    return {
        "reward": _described(parts.objective.terms),
        "prompt": prompts or "none",
        "held_out_judge": _described(parts.heldout) or "none",
        "feature_space": f"features of {space.name}" if space and embeds else "pixels",
        "device": f"{state.device}, {state.precision}",
        **({"trained_judges": ", ".join(trained)} if trained else {}),
    }


def _described(judges: Sequence[Judge]) -> str:
    return "; ".join(f"{judge.name}, {judge.reward.describe()}" for judge in judges)
