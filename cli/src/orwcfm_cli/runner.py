"""Carries a run from its configuration to its report."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.checkpoint import load_checkpoint, load_sampling_policy, newest_checkpoint, save_checkpoint
from orwcfm_core.config import RunConfig
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.evaluation import evaluate
from orwcfm_core.events import CallbackError, Callbacks, Run
from orwcfm_core.reward import Judge
from orwcfm_core.sampler import build_sampler
from orwcfm_core.trainer import State, Trainer, autocast, choose_precision, draw

from orwcfm_cli.assemble import assemble, build_callbacks, choose_device
from orwcfm_cli.display import Display
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.pictures import save_grid
from orwcfm_cli.report import write_report
from orwcfm_cli.scales import scale_report

__all__ = ["plan", "resume", "sample", "start"]

_GRID = 64
"""Pictures in a grid."""


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
    trainer, state = assemble(config)
    with Display(config.train.rounds, done=0) as display:
        notes = _notes(state, config)
        for name, text in notes.items():
            display.note(f"{name.replace('_', ' ')}: {text}")
        # Before anything is written: a reward that cannot score these prompts says so here.
        reference = evaluate(state, config.train.eval_samples)
        for line in scale_report(reference, config):
            display.note(line)
        folder.make()
        with lock(folder.path):
            display.note(f"run folder: {folder.path}")
            folder.write_config(config, notes)
            folder.write_json("reference.json", reference)
            _picture(state, folder, config)
            save_checkpoint(state, folder.checkpoints, config.train.keep)
            run = Run(folder.path, config.tables())
            return _Session(trainer, state, folder, config, callbacks, display, run, Watch(reference)).go_on()


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
    callbacks = build_callbacks(config)
    trainer, state = assemble(config)
    load_checkpoint(state, checkpoint)
    folder.rewind(state.round)
    with Display(config.train.rounds, done=state.round) as display:
        display.note(f"run folder {folder.path}, from round {state.round}")
        run = Run(folder.path, config.tables(), state.round)
        return _Session(trainer, state, folder, config, callbacks, display, run).go_on()


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


@dataclass(frozen=True)
class _Session:
    """A run in this process, from the first round that is left to its end."""

    trainer: Trainer
    state: State
    folder: RunFolder
    config: RunConfig
    callbacks: Callbacks
    display: Display
    run: Run

    def go_on(self) -> dict[str, Any]:
        """Do the rounds that are left, then measure and report."""
        try:
            self.callbacks.run_start(self.run, self.folder.read_json("reference.json"))
            with _interruptible() as interrupted:
                while self._left and not interrupted():
                    self._round()
            result = {} if self._left else evaluate(self.state, self.config.train.eval_samples)
        except (RunError, UserError) as e:
            if isinstance(e, CallbackError):
                # The run itself is sound: nothing of it is lost.
                self._keep(f"saved after round {self.state.round}")
            with suppress(CallbackError):
                self.callbacks.run_end(self.run, "failed", {})
            raise
        if self._left:
            self._keep(f"interrupted and saved after round {self.state.round}")
            self.callbacks.run_end(self.run, "interrupted", {})
            raise SystemExit(130)
        self.folder.write_json("final.json", result)
        report = write_report(self.folder.path)
        self.callbacks.run_end(self.run, "done", result)
        return {**result, "run": str(self.folder.path), "report": str(report)}

    def _round(self) -> None:
        train = self.config.train
        metrics = self.trainer.round(self.state)
        self.folder.append_metrics(metrics)
        self.display.round(metrics)
        last = self.state.round == train.rounds
        if self.state.round % train.grid_every == 0 or last:
            _picture(self.state, self.folder, self.config)
        self.callbacks.round_end(self.run, metrics)
        if self.state.round % train.checkpoint_every == 0 or last:
            self._save()

    def _save(self) -> None:
        checkpoint = save_checkpoint(self.state, self.folder.checkpoints, self.config.train.keep)
        self.callbacks.checkpoint(self.run, checkpoint)

    def _keep(self, why: str) -> None:
        """Save where the run stands, and say how to go on."""
        save_checkpoint(self.state, self.folder.checkpoints, self.config.train.keep)
        write_report(self.folder.path)
        self.display.note(f"{why}; go on with: orwcfm resume {self.folder.path}")

    @property
    def _left(self) -> bool:
        return self.state.round < self.config.train.rounds


def _notes(state: State, config: RunConfig) -> dict[str, str]:
    """What the components say of themselves, for the screen and the report."""
    parts = state.components
    prompts = ", ".join(f"'{prompt}'" for prompt in config.prompts if prompt)
    x = torch.zeros((1, *parts.backbone.sample_shape), device=state.device)
    space = parts.feature_space
    with torch.no_grad():
        embeds = space is not None and space.reward.features(parts.backbone.to_images(x)) is not None
    return {
        "reward": _described(parts.objective.terms),
        "prompt": prompts or "none",
        "held_out_judge": _described(parts.heldout) or "none",
        "feature_space": f"features of {space.name}" if space and embeds else "pixels",
        "device": f"{state.device}, {state.precision}",
    }


def _described(judges: Sequence[Judge]) -> str:
    return "; ".join(f"{judge.name}, {judge.reward.describe()}" for judge in judges)


def _picture(state: State, folder: RunFolder, config: RunConfig) -> None:
    """Draw the grid of this round, from the same noise of its own every time, so that training is not disturbed."""
    backbone = state.components.backbone
    noise = _noise(backbone, _GRID, config.train.seed, state.device)
    x_1, _ = state.sample(noise, _shared(config.prompts, _GRID))
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
