"""Callbacks: told in order, checked for their hooks, and blamed by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from orwcfm_core.errors import UserError
from orwcfm_core.events import CallbackError, Callbacks, Run
from orwcfm_core.plugin import hookimpl

RUN = Run(Path("run"), {})


class Recorder:
    """Writes down what it is told."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    @hookimpl
    def orwcfm_on_run_start(self, run: Run) -> None:
        self.told.append(f"start {run.first_round}")

    @hookimpl
    def orwcfm_on_round_end(self, metrics: dict[str, int]) -> None:
        self.told.append(f"round {metrics['round']}")

    @hookimpl
    def orwcfm_on_run_end(self, status: str) -> None:
        self.told.append(status)


class Failing:
    """Fails on every round."""

    @hookimpl
    def orwcfm_on_round_end(self) -> None:
        raise ValueError("no luck")


def test_each_event_reaches_each_callback_that_wants_it() -> None:
    told: list[str] = []
    callbacks = Callbacks({"one": Recorder(told), "two": Recorder(told)})
    callbacks.run_start(RUN, {})
    callbacks.round_end(RUN, {"round": 1})
    callbacks.checkpoint(RUN, Path("checkpoint"))
    callbacks.run_end(RUN, "done", {})
    assert told == ["start 0", "start 0", "round 1", "round 1", "done", "done"]


def test_one_that_fails_is_named_and_keeps_the_others_from_nothing() -> None:
    told: list[str] = []
    with pytest.raises(CallbackError, match="callback 'bad': ValueError: no luck"):
        Callbacks({"bad": Failing(), "good": Recorder(told)}).round_end(RUN, {"round": 3})
    assert told == ["round 3"]


class Taking:
    """Takes out what it needs."""

    @hookimpl
    def orwcfm_on_round_end(self, run: Run, metrics: dict[str, int]) -> None:
        del metrics["round"], run.config["train"]


def test_what_one_takes_out_is_still_there_for_the_run_and_the_others() -> None:
    told: list[str] = []
    run, metrics = Run(Path("run"), {"train": {"lr": 1}}), {"round": 3}
    Callbacks({"taking": Taking(), "other": Recorder(told)}).round_end(run, metrics)
    assert told == ["round 3"]
    assert (run.config, metrics) == ({"train": {"lr": 1}}, {"round": 3})


class Misspelt:
    @hookimpl
    def orwcfm_on_round_ends(self) -> None: ...


class WrongArgument:
    @hookimpl
    def orwcfm_on_round_end(self, losses: object) -> None: ...


class Nothing:
    def orwcfm_on_round_end(self) -> None: ...


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (Misspelt(), "unknown hook 'orwcfm_on_round_ends'"),
        (WrongArgument(), "losses"),
        (Nothing(), "implements no event"),
    ],
)
def test_hooks_that_do_not_fit_are_refused(callback: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Callbacks({"odd": callback})
    assert "callback 'odd'" in str(caught.value)
