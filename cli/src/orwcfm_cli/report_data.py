"""What a run folder says, read without torch: configuration, rounds, reference, pictures."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orwcfm_core.errors import UserError

__all__ = ["Picture", "RunRecord", "finite", "mean", "read_run", "running_mean"]

PNG = b"\x89PNG\r\n\x1a\n"
MOST_AVERAGED = 5
LARGEST = 1e60
"""What no metric reaches; squares of it are still numbers. What is smaller than its inverse is 0."""
NOT_OPTIONS = ("versions", "notes")


@dataclass(frozen=True)
class Picture:
    """A grid of samples: round, file, width and height in pixels."""

    round: int
    file: Path
    size: tuple[int, int]


@dataclass(frozen=True)
class RunRecord:
    """A run as it stands on disk; whatever is missing is empty."""

    name: str
    config: Mapping[str, Any]
    config_text: str
    rounds: Sequence[Mapping[str, Any]] = ()
    reference: Mapping[str, Any] = field(default_factory=dict)
    final: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()

    def option(self, section: str, key: str, default: Any = None) -> Any:
        """A value of run.toml."""
        table = self.config.get(section)
        return table.get(key, default) if isinstance(table, Mapping) else default

    def names(self, section: str) -> list[str]:
        """Names of a section's components, without where they come from."""
        given = self.option(section, "name", [])
        listed = given if isinstance(given, list) else [given]
        return [str(name).partition("@")[0] for name in listed if str(name)]

    @property
    def alphas(self) -> dict[str, float]:
        """Strength of the regularizers that have one, by the option that sets it."""
        reg = self.config.get("reg")
        table = reg if isinstance(reg, Mapping) else {}
        found = {"reg.alpha": table.get("alpha")} | {
            f"reg.{name}.alpha": own.get("alpha") for name, own in table.items() if isinstance(own, Mapping)
        }
        return {option: known for option, alpha in found.items() if (known := finite(alpha)) is not None}

    @property
    def options(self) -> dict[str, Mapping[str, Any]]:
        """The sections of run.toml that configure the run."""
        return {k: v for k, v in self.config.items() if isinstance(v, Mapping) and k not in NOT_OPTIONS}

    @property
    def planned(self) -> int:
        """Rounds that were asked for; 0 if unknown."""
        rounds = self.option("train", "rounds", 0)
        return rounds if isinstance(rounds, int) else 0

    @property
    def prompts(self) -> list[str]:
        """Prompts that are not empty."""
        given = self.option("reward", "prompt", [])
        return [
            str(p)
            for p in ([given] if isinstance(given, str) else given if isinstance(given, list) else [])
            if str(p).strip()
        ]

    @property
    def goal(self) -> str:
        """What the reference's satisfying samples do, as a predicate."""
        return f"satisfy {'the prompt' if self.prompts else self.reference.get('satisfying_judge', 'the reward')}"

    @property
    def heldout(self) -> str | None:
        """Key of the held-out reward, the configured one first."""
        names = {k for row in (*self.rounds, self.reference) for k in row if k.startswith("heldout_")}
        chosen = [key for name in self.names("heldout") if (key := f"heldout_{name}") in names]
        return chosen[0] if chosen else min(names, default=None)

    @property
    def averaged(self) -> int:
        """How many of the last rounds make up the values at the end: an eighth, but no more than five."""
        return max(1, min(MOST_AVERAGED, self.led // 8))

    @property
    def led(self) -> int:
        """How many rounds led to the result: all, unless the run went back to its best one."""
        last = finite(self.final.get("round"))
        return len(self.rounds) if last is None else sum(number <= last for number in self.numbers)

    @property
    def result(self) -> Picture | None:
        """The last picture of the rounds that led to the result."""
        last = finite(self.final.get("round"))
        return next((p for p in reversed(self.pictures) if last is None or p.round <= last), None)

    def series(self, key: str) -> list[float | None]:
        """A metric in every round; None where it is missing or not finite."""
        return [finite(row.get(key)) for row in self.rounds]

    @property
    def numbers(self) -> list[int]:
        """The rounds' numbers."""
        return [int(row["round"]) for row in self.rounds]

    def baseline(self, key: str) -> float | None:
        """A metric of the reference before training."""
        return finite(self.reference.get(key))

    def start(self, key: str) -> float | None:
        """A metric of the reference if known, else of the first round."""
        known = self.baseline(key)
        return known if known is not None else next((v for v in self.series(key) if v is not None), None)

    def end(self, key: str) -> float | None:
        """A metric as measured on fresh samples when the run was done, else its mean over the last rounds."""
        if key in self.final:
            return finite(self.final[key])
        return mean([v for v in self.series(key)[: self.led] if v is not None][-self.averaged :])

    def best(self, key: str) -> tuple[float, int] | None:
        """The highest value and its round."""
        pairs = [(v, n) for v, n in zip(self.series(key), self.numbers, strict=True) if v is not None]
        return max(pairs, key=lambda p: p[0], default=None)


def read_run(run: Path) -> RunRecord:
    """Read a run folder.

    Args:
        run: The folder; only run.toml must be there.

    Raises:
        UserError: There is no readable run.toml.
    """
    path = run / "run.toml"
    try:
        text = path.read_text(encoding="utf-8")
        config = tomllib.loads(text)
    except OSError as e:
        raise UserError(f"expected a run folder, but {path} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: expected TOML, {e}") from e
    return RunRecord(
        run.resolve().name,
        config,
        text,
        _rounds(run),
        _json(run / "reference.json"),
        _json(run / "final.json"),
        _pictures(run),
    )


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean over the neighbours up to `width` away on either side, fewer at the ends."""
    windows = (values[max(0, i - width) : i + width + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def finite(value: Any) -> float | None:
    """A number that can be counted with and drawn; None of anything else, for the files may have been edited."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
        return None
    return float(value) if abs(value) * LARGEST > 1 else 0.0


def _rounds(run: Path) -> list[dict[str, Any]]:
    """Rounds in order; of a round that was repeated after a resume, the last line counts."""
    path = run / "metrics.jsonl"
    rounds: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        row = _object(line)
        if finite(row.get("round")) is not None:
            rounds[int(row["round"])] = row
    return [rounds[number] for number in sorted(rounds)]


def _json(path: Path) -> dict[str, Any]:
    return _object(path.read_bytes()) if path.is_file() else {}


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object; empty if it is none, as the last line of a run that was killed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _pictures(run: Path) -> list[Picture]:
    pictures = []
    for path in (run / "samples").glob("round_*.png"):
        named = re.fullmatch(r"round_(\d+)\.png", path.name)
        with path.open("rb") as file:
            head = file.read(24)
        if named and head.startswith(PNG) and len(head) == 24:
            size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:], "big")
            pictures.append(Picture(int(named[1]), path, size))
    return sorted(pictures, key=lambda p: p.round)
