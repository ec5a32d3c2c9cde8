"""What is checked, and how a check ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from orwcfm_core.plugin import ComponentConfig, Spec
from orwcfm_core.registry import BASES, Plugin, Registry, imported

__all__ = ["ClosedForm", "Result", "Subject"]

ClosedForm = Callable[[Tensor, Tensor], Tensor | None]
"""Expected penalty of a sample at times `(B,)`, of a policy and a reference that differ by the vector `(d,)`."""


@dataclass(frozen=True)
class Result:
    """How a check ended.

    Args:
        name: The check's name.
        status: How.
        message: One line that says why; empty if it passed.
    """

    name: str
    status: Literal["passed", "failed", "skipped"]
    message: str = ""


class Subject:
    """A component that is checked.

    Args:
        plugin: Where it comes from.
        options: Its options; None takes those of the spec's example.
        registry: Where components that it is tried together with come from; None means what is installed.
        closed_form: Known values of a regularizer's penalty; None where they are not known.
    """

    def __init__(
        self,
        plugin: Plugin,
        options: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        closed_form: ClosedForm | None = None,
    ) -> None:
        self.plugin = plugin
        self.options = options
        self.closed_form = closed_form
        self._registry = registry

    @property
    def spec(self) -> Spec:
        """What the plugin says of the component."""
        return self.plugin.spec

    @property
    def given(self) -> Mapping[str, Any]:
        """The options that are not left at their defaults."""
        return self.spec.example.options if self.options is None else self.options

    @cached_property
    def config(self) -> ComponentConfig:
        """The component's options."""
        return self.spec.config.model_validate(dict(self.given))

    @cached_property
    def registry(self) -> Registry:
        """Where other components come from."""
        return self._registry or Registry()

    @cached_property
    def component(self) -> Any:
        """An instance that checks share; what they change in it they restore."""
        return self.build()

    def build(self, **changes: Any) -> Any:
        """A fresh instance.

        Args:
            changes: Options that differ from `config`.
        """
        config = self.config
        if changes:
            options = config.model_dump(mode="json", exclude_none=True) | changes
            config = self.spec.config.model_validate(options)
        base = imported(BASES[self.plugin.kind]) if self.plugin.kind in BASES else object
        return self.plugin.build(config, base)

    def prompts(self, count: int) -> Sequence[str]:
        """The two prompts of the example in turn."""
        return [self.spec.example.prompts[i % 2] for i in range(count)]
