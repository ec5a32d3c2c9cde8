"""The regularizer `none`, as the registry sees it."""

from __future__ import annotations

from orwcfm_core.plugin import ComponentConfig, RegularizerSpec, hookimpl

__all__ = ["Config", "orwcfm_regularizers"]


class Config(ComponentConfig):
    """No options: a strength of nothing would only mislead."""


@hookimpl
def orwcfm_regularizers() -> list[RegularizerSpec]:
    """The absence of a regularizer."""
    return [
        RegularizerSpec(
            name="none",
            summary="No penalty: nothing holds the policy near the reference.",
            config=Config,
            factory="orwcfm_reg_none.regularizer:NoPenalty",
        )
    ]
