"""The checks of each kind, as an iterator of results and as classes for pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from unittest import SkipTest

from torch import Tensor

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.registry import Registry, blame
from orwcfm_core.testing import backbones, callbacks, contract, regularizers, rewards, trainers
from orwcfm_core.testing.subject import Result, Subject
from orwcfm_core.testing.tools import Skip

__all__ = [
    "CHECKS",
    "BackboneTests",
    "CallbackTests",
    "PluginTests",
    "RegularizerTests",
    "RewardTests",
    "TrainerTests",
    "check",
    "run_check",
]

Check = Callable[[Subject], None]

CHECKS: Mapping[str, Sequence[Check]] = {
    "reward": (*contract.CHECKS, *rewards.CHECKS),
    "backbone": (*contract.CHECKS, *backbones.CHECKS),
    "regularizer": (*contract.CHECKS, *regularizers.CHECKS),
    "trainer": (*contract.CHECKS, *trainers.CHECKS),
    "callback": (*contract.CHECKS, *callbacks.CHECKS),
}
"""The checks of each kind, in the order in which they run."""

_GATES = {"loads": "could not be loaded", "example": "has no valid options", "builds": "could not be built"}
"""Checks without which the ones after them mean nothing."""


def check(
    kind: str, name: str, options: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> Iterator[Result]:
    """Check a plugin; whatever it raises becomes a failed result.

    Args:
        kind: One of `orwcfm_core.plugin.GROUPS`.
        name: Its name, or `NAME@DIST`.
        options: Its options; None takes those of the spec's example.
        registry: Where it is looked up; None means what is installed.

    Returns:
        A result for each of `CHECKS[kind]`, as it is known.

    Raises:
        UserError: There is no such plugin.
    """
    registry = registry or Registry()
    return _results(Subject(registry.get(kind, name), options, registry))


def _results(subject: Subject) -> Iterator[Result]:
    closed = ""
    for function in CHECKS[subject.plugin.kind]:
        if closed:
            yield Result(function.__name__, "skipped", closed)
            continue
        result = run_check(function, subject)
        yield result
        if result.status == "failed":
            closed = _GATES.get(result.name, "")


def run_check(function: Check, subject: Subject) -> Result:
    """Run one check.

    Args:
        function: The check.
        subject: What is checked.
    """
    try:
        with blame("raised", RunError):
            return _outcome(function, subject)
    except (UserError, RunError) as e:
        return Result(function.__name__, "failed", _one_line(e))


def _outcome(function: Check, subject: Subject) -> Result:
    try:
        function(subject)
    except Skip as e:
        return Result(function.__name__, "skipped", _one_line(e))
    except AssertionError as e:
        return Result(function.__name__, "failed", _one_line(e))
    return Result(function.__name__, "passed")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or f"{type(error).__name__} without a message"


class PluginTests:
    """Base of the classes below; a subclass sets `name`, and `options` where the spec's example does not do."""

    kind: ClassVar[str]
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any] | None] = None
    registry: ClassVar[Registry | None] = None
    _shared: ClassVar[Subject | None] = None

    def __init_subclass__(cls, kind: str = "", **named: Any) -> None:
        super().__init_subclass__(**named)
        cls._shared = None
        if kind:
            cls.kind = kind
            for function in CHECKS[kind]:
                setattr(cls, f"test_{function.__name__}", _method(function))

    @classmethod
    def teardown_class(cls) -> None:
        """Let go of the component; pytest calls this after the tests of a class."""
        cls._shared = None

    def closed_form(self, delta: Tensor, t: Tensor) -> Tensor | None:
        """Of a regularizer: the expected penalty where it is known, see `RegularizerTests`."""
        return None

    def subject(self) -> Subject:
        """What is checked; the tests of a class share it."""
        cls = type(self)
        if cls._shared is None:
            registry = self.registry or Registry()
            cls._shared = Subject(registry.get(self.kind, self.name), self.options, registry, self.closed_form)
        return cls._shared


def _method(function: Check) -> Callable[[PluginTests], None]:
    def test(self: PluginTests) -> None:
        try:
            function(self.subject())
        except Skip as e:
            raise SkipTest(str(e)) from e
        except SkipTest as e:
            # The component raised it, which says nothing about the check.
            raise AssertionError(f"raised: SkipTest: {_one_line(e)}") from e

    test.__name__, test.__doc__ = f"test_{function.__name__}", function.__doc__
    return test


class RewardTests(PluginTests, kind="reward"):
    """Tests of a reward."""


class BackboneTests(PluginTests, kind="backbone"):
    """Tests of a backbone."""


class RegularizerTests(PluginTests, kind="regularizer"):
    """Tests of a regularizer.

    An author who knows what the penalty should be overrides `closed_form(delta, t)`: policy and reference are affine
    in x and differ by the constant vector delta, `(d,)`; it returns the penalty that a sample is to have at the times
    t, `(B,)`, or a number for all.
    """


class TrainerTests(PluginTests, kind="trainer"):
    """Tests of a trainer, on the backbone `gmm`."""


class CallbackTests(PluginTests, kind="callback"):
    """Tests of a callback."""
