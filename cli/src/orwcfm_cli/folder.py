"""The files of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orwcfm_core.config import SECTIONS, RunConfig
from orwcfm_core.errors import UserError
from orwcfm_core.layers import layered
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve

from orwcfm_cli.atomic import replace_file
from orwcfm_cli.options import Tables, read_toml, to_toml

__all__ = ["CHANGEABLE", "RunFolder"]

CHANGEABLE = frozenset(
    f"train.{option}"
    for option in (
        "rounds",
        "keep",
        "checkpoint_every",
        "grid_every",
        "eval_samples",
        "early_stop",
        "max_skipped",
        "micro_batch",
    )
)
"""Options that may be other when a run is resumed: they decide how long it goes on and what is kept of it."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder: run.toml, metrics.jsonl, samples/, checkpoints/, report.html (docs/run-folder.md).

    Args:
        path: Where it is.
    """

    path: Path

    @classmethod
    def choose(cls, out: Path | None, config: RunConfig) -> RunFolder:
        """A folder that is free; nothing is written yet.

        Args:
            out: Where; None chooses the first free `runs/<reward>-<reg>-<number>`.
            config: The run's configuration, for the name.

        Raises:
            UserError: It exists and is not empty.
        """
        path = out
        if path is None:
            stem = "-".join("+".join(c.name for c in choices) for choices in (config.rewards, config.regs))
            path = next(p for n in range(1, 100_000) if not (p := Path("runs") / f"{stem}-{n:03d}").exists())
        try:
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        except OSError as e:
            raise UserError(f"run folder {path}: {e.strerror}") from e
        if taken:
            raise UserError(
                f"run folder {path} exists already; choose another --out, or go on with: orwcfm resume {path}"
            )
        return cls(path)

    def make(self) -> None:
        """Make it.

        Raises:
            UserError: It cannot be made.
        """
        try:
            (self.path / "samples").mkdir(parents=True)
        except OSError as e:
            raise UserError(f"cannot make run folder {self.path}: {e.strerror}") from e

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that exists.

        Raises:
            UserError: It is not a run folder.
        """
        if not (path / "run.toml").is_file():
            raise UserError(f"{path} is not a run folder: it has no run.toml")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints."""
        return self.path / "checkpoints"

    def write_config(self, config: RunConfig, notes: dict[str, str]) -> None:
        """Write run.toml: the configuration, the versions of all that took part, and notes for the report."""
        versions = {dist: version(dist) for dist in ("orwcfm", "orwcfm-core", "torch")}
        versions |= {choice.plugin.dist: choice.plugin.version for choice in config.choices}
        text = to_toml({**config.tables(), "versions": versions, "notes": notes})
        replace_file(self.path / "run.toml", text.encode())

    def read_config(self, changes: Tables | None = None) -> RunConfig:
        """The configuration that `write_config` wrote.

        Args:
            changes: Options by section that are other than they were.

        Raises:
            UserError: It was changed to something that is not valid, or in what a run cannot change under way.
        """
        tables = read_toml(self.path / "run.toml")
        written = {section: table for section, table in tables.items() if section in SECTIONS}
        config = resolve(written, Registry())
        if not changes:
            return config
        fixed = [
            f"{s}.{o}"
            for s, table in changes.items()
            for o in table
            if s != "callback" and f"{s}.{o}" not in CHANGEABLE
        ]
        if fixed:
            raise UserError(
                f"{', '.join(fixed)}: cannot change under way: it would be another run; start a new one "
                f"(what can change: {', '.join(sorted(CHANGEABLE))}, callback)"
            )
        merged = layered(written, changes)
        return resolve(merged, Registry())

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a small JSON file."""
        replace_file(self.path / name, (json.dumps(content, indent=1) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read what `write_json` wrote; empty if it is not there."""
        file = self.path / name
        try:
            content = json.loads(file.read_text()) if file.exists() else {}
        except ValueError as e:
            raise UserError(f"{file} is damaged: {e}") from e
        return content if isinstance(content, dict) else {}

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rounds that are done.

        Raises:
            UserError: metrics.jsonl was changed to something else.
        """
        file = self.path / "metrics.jsonl"
        try:
            lines = file.read_text().splitlines() if file.exists() else []
            rows = [json.loads(line) for line in lines]
        except ValueError as e:
            raise UserError(f"{file} is damaged: {e}") from e
        if not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{file} is damaged: expected an object in every line")
        return rows

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a round's line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def rewind(self, rounds: int) -> None:
        """Drop what is newer than the newest checkpoint: lines of later rounds, and a result if there will be another.

        Args:
            rounds: Rounds that the checkpoint has done.
        """
        file = self.path / "metrics.jsonl"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        replace_file(file, b"".join(lines[:rounds]))
        (self.path / "final.json").unlink(missing_ok=True)

    def grid(self, round_number: int) -> Path:
        """Path of the picture of a round."""
        return self.path / "samples" / f"round_{round_number:04d}.png"
