"""The files of a run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orwcfm_core.config import SECTIONS, RunConfig
from orwcfm_core.errors import UserError
from orwcfm_core.layers import layered
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve

from orwcfm_cli.atomic import remove_leftovers, replace_file
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
        numbered: Whether its number was chosen for it, and another would do.
    """

    path: Path
    numbered: bool = False

    @classmethod
    def choose(cls, out: Path | None, config: RunConfig) -> RunFolder:
        """A folder that is free; nothing is written yet.

        Args:
            out: Where; None chooses the first free `runs/<reward>-<reg>-<number>`.
            config: The run's configuration, for the name.

        Raises:
            UserError: It exists and is not empty.
        """
        if out is None:
            stem = "-".join("+".join(c.name for c in choices) for choices in (config.rewards, config.regs))
            return cls(_makeable(_free(Path("runs") / stem)), numbered=True)
        try:
            taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
        except OSError as e:
            raise UserError(f"run folder {out}: {e.strerror}") from e
        if taken:
            more = f", or go on with: orwcfm resume {out}" if (out / "run.toml").is_file() else ""
            raise UserError(f"run folder {out} exists already; choose another --out{more}")
        return cls(_makeable(out))

    def make(self) -> RunFolder:
        """Make it.

        Returns:
            It, or the next free one if its number was taken meanwhile, by a run that was started at the same time.

        Raises:
            UserError: It cannot be made.
        """
        try:
            (self.path / "samples").mkdir(parents=True)
        except FileExistsError as e:
            if self.numbered:
                stem = self.path.name.rpartition("-")[0]
                return RunFolder(_free(self.path.with_name(stem)), numbered=True).make()
            raise UserError(f"run folder {self.path} exists already; choose another --out") from e
        except OSError as e:
            raise UserError(f"cannot make run folder {self.path}: {e.strerror}") from e
        return self

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that exists.

        Raises:
            UserError: It is not a run folder.
        """
        if not (path / "run.toml").is_file():
            more = f"; it is a sweep: orwcfm sweep --resume {path}, or one of {path / 'runs'}"
            is_sweep = (path / "sweep.toml").is_file()
            raise UserError(f"{path} is not a run folder: it has no run.toml{more if is_sweep else ''}")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def unstarted(self) -> bool:
        """Whether the run was ended before its first checkpoint, and has done nothing that could be lost."""
        metrics = self.path / "metrics.jsonl"
        return not (metrics.exists() and metrics.stat().st_size) and not any(self.checkpoints.glob("round_*"))

    def write_config(self, config: RunConfig, notes: dict[str, str]) -> None:
        """Write run.toml: the configuration, the versions of all that took part, and notes for the report."""
        versions = {dist: version(dist) for dist in ("orwcfm", "orwcfm-core", "torch")}
        versions |= {choice.plugin.dist: choice.plugin.version for choice in config.choices}
        text = to_toml({**config.tables(), "versions": versions, "notes": notes})
        replace_file(self.path / "run.toml", text.encode())

    def read_config(self, changes: Tables | None = None, scored: bool = True) -> RunConfig:
        """The configuration that `write_config` wrote.

        Args:
            changes: Options by section that are other than they were. None leaves callbacks out: who only reads a run
                tells them nothing, and may not have them.
            scored: Whether rewards and judges are wanted; without `changes` alone.

        Raises:
            UserError: It was changed to something that is not valid, or in what a run cannot change under way.
        """
        tables = read_toml(self.path / "run.toml")
        written = {section: table for section, table in tables.items() if section in SECTIONS}
        if changes is None:
            written.pop("callback", None)
        if not changes:
            return resolve(written, Registry(), scored)
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
        """Read what `write_json` wrote; empty if it is not there.

        Raises:
            UserError: It was changed to something else.
        """
        file = self.path / name
        if not file.exists():
            return {}
        content = _parsed(file.read_bytes())
        if content is None:
            raise UserError(f"{file} is damaged: expected a JSON object")
        return content

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rounds that are done.

        Raises:
            UserError: metrics.jsonl was changed to something else.
        """
        return [row for row, _ in self._rows()]

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a round's line to metrics.jsonl.

        Raises:
            OSError: The disk refuses; with the path.
        """
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(path)) from e

    def flush_metrics(self) -> None:
        """See that the lines are on the disk, where those of a checkpoint's rounds must be before it is."""
        with (self.path / "metrics.jsonl").open("a") as file:
            os.fsync(file.fileno())

    def rewind(self, rounds: int, unfinished: bool) -> int:
        """Drop what is newer than the newest checkpoint: lines of later rounds, and the result if more will follow.

        Args:
            rounds: Rounds that the checkpoint has done.
            unfinished: Whether there are rounds left.

        Returns:
            How many of those have no line.

        Raises:
            UserError: metrics.jsonl was changed to something else.
        """
        kept = [line for row, line in self._rows() if row["round"] <= rounds]
        replace_file(self.path / "metrics.jsonl", b"".join(line + b"\n" for line in kept))
        if unfinished:
            (self.path / "final.json").unlink(missing_ok=True)
        remove_leftovers(self.path)
        remove_leftovers(self.path / "samples")
        return rounds - len(kept)

    def _rows(self) -> list[tuple[dict[str, Any], bytes]]:
        """The rounds in metrics.jsonl with their lines; without a last line that was not written to its end."""
        file = self.path / "metrics.jsonl"
        lines = file.read_bytes().splitlines() if file.exists() else []
        rows: list[tuple[dict[str, Any], bytes]] = []
        for number, line in enumerate(lines, 1):
            row = _parsed(line)
            done = row.get("round") if row else None
            if row is None and number == len(lines):
                break
            if row is None or type(done) is not int or done <= (rows[-1][0]["round"] if rows else 0):
                raise UserError(f"{file} is damaged: expected the metrics of a later round in line {number}")
            rows.append((row, line))
        return rows

    def grid(self, round_number: int) -> Path:
        """Path of the picture of a round."""
        return self.path / "samples" / f"round_{round_number:04d}.png"


def _free(stem: Path) -> Path:
    """The first of `stem-001`, `stem-002`, ... that does not exist."""
    numbered = (stem.with_name(f"{stem.name}-{n:03d}") for n in range(1, 100_000))
    return next(path for path in numbered if not path.exists())


def _makeable(path: Path) -> Path:
    """The path, if a folder can be made there.

    Raises:
        UserError: It cannot: what is there of the way to it is no folder, or cannot be written to.
    """
    try:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    except OSError as e:
        raise UserError(f"cannot make run folder {path}: {e.strerror}") from e
    if not there.is_dir():
        raise UserError(f"cannot make run folder {path}: {there} is not a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"cannot make run folder {path}: {there} cannot be written to")
    return path


def _parsed(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None if it is none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
