"""Events of a run, which callbacks are told of. No torch in here.

A callback is an object that implements some of the hooks in `Events`, each marked with `orwcfm_core.plugin.hookimpl`;
an implementation may leave out arguments that it does not need. Every callback is called in the process of the run,
between rounds, in the order in which the user named them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.plugin import hookspec
from orwcfm_core.registry import blame

__all__ = ["CallbackError", "Callbacks", "Events", "Run", "numbers"]


class CallbackError(RunError):
    """A callback failed; the run itself is sound."""


@dataclass(frozen=True)
class Run:
    """The run that an event is about.

    Args:
        path: Its folder (docs/run-folder.md); callbacks may add files to it.
        config: Its configuration, by section.
        first_round: Rounds that were done before; more than 0 if the run was resumed.
    """

    path: Path
    config: Mapping[str, Mapping[str, Any]]
    first_round: int = 0

    def grids(self, rounds: range) -> dict[int, Path]:
        """The grids of samples that there are for these rounds, by round."""
        paths = {n: self.path / "samples" / f"round_{n:04d}.png" for n in rounds}
        return {n: path for n, path in paths.items() if path.is_file()}

    def options(self) -> dict[str, bool | int | float | str]:
        """The configuration as one flat table of plain values: `section.option`, with lists and tables as JSON."""
        flat = {f"{section}.{key}": value for section, table in self.config.items() for key, value in table.items()}
        return {
            key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for key, value in flat.items()
            if value is not None
        }


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, int | float]:
    """What of metrics or measurements is a number, which is what can be drawn.

    Args:
        values: They; what is None or no number is left out.
        prefix: Put before every name.
    """
    return {
        f"{prefix}{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


class Events:
    """The hooks, one per event."""

    @hookspec
    def orwcfm_on_run_start(self, run: Run, reference: Mapping[str, Any]) -> None:
        """Before the first round, also of a resumed run.

        Args:
            run: The run.
            reference: What the model before fine-tuning measured, as in reference.json.
        """

    @hookspec
    def orwcfm_on_round_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """After each round.

        Args:
            run: The run.
            metrics: The round's line of metrics.jsonl (docs/metrics.md); values may be None.
        """

    @hookspec
    def orwcfm_on_checkpoint(self, run: Run, checkpoint: Path) -> None:
        """After a checkpoint was written.

        Args:
            run: The run.
            checkpoint: Its folder; a later checkpoint may remove it.
        """

    @hookspec
    def orwcfm_on_run_end(self, run: Run, status: str, result: Mapping[str, Any]) -> None:
        """When the run ends in any way but a kill.

        Args:
            run: The run.
            status: `done`, `interrupted` or `failed`.
            result: What the fine-tuned model measured, as in final.json; empty unless done.
        """


class Callbacks:
    """The callbacks of a run.

    Args:
        named: Objects by name.

    Raises:
        UserError: One of them implements no event, or one that does not exist, or with an argument that it lacks.
    """

    def __init__(self, named: Mapping[str, object]) -> None:
        self._managers: dict[str, pluggy.PluginManager] = {}
        for name, callback in named.items():
            manager = pluggy.PluginManager("orwcfm")
            manager.add_hookspecs(Events)
            with blame(f"callback '{name}'", UserError):
                manager.register(callback)
                manager.check_pending()
                if not manager.get_hookcallers(callback):
                    raise UserError("implements no event: mark its methods with orwcfm_core.plugin.hookimpl")
            self._managers[name] = manager

    def run_start(self, run: Run, reference: Mapping[str, Any]) -> None:
        """Tell all of `orwcfm_on_run_start`."""
        self._tell("orwcfm_on_run_start", run=run, reference=reference)

    def round_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """Tell all of `orwcfm_on_round_end`."""
        self._tell("orwcfm_on_round_end", run=run, metrics=metrics)

    def checkpoint(self, run: Run, checkpoint: Path) -> None:
        """Tell all of `orwcfm_on_checkpoint`."""
        self._tell("orwcfm_on_checkpoint", run=run, checkpoint=checkpoint)

    def run_end(self, run: Run, status: str, result: Mapping[str, Any]) -> None:
        """Tell all of `orwcfm_on_run_end`."""
        self._tell("orwcfm_on_run_end", run=run, status=status, result=result)

    def _tell(self, event: str, **about: Any) -> None:
        """Tell all of an event; one that fails keeps none of the others from being told.

        Raises:
            CallbackError: Callbacks raised; a line for each, with its name.
        """
        errors = []
        for name, manager in self._managers.items():
            try:
                with blame(f"callback '{name}'", CallbackError):
                    # To each its own: what one of them takes out or puts in, neither the run nor the next one sees.
                    getattr(manager.hook, event)(**copy.deepcopy(about))
            except (RunError, UserError) as e:
                errors.append(str(e))
        if errors:
            raise CallbackError("\n".join(errors))
