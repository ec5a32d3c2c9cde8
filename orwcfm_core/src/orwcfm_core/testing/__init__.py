"""The conformance kit: whether a plugin keeps to the contract, for its author and for `orwcfm plugins check`.

A check is a function of a `Subject` that raises AssertionError, or `tools.Skip` where it does not apply. There are
three ways to run them. As an iterator of results:

    for result in check("reward", "bright-pixels", {"threshold": 0.5}):
        print(result.name, result.status, result.message)

as a class that pytest collects, one test per check, with the options of the spec's `example` if it names none:

    class TestBrightPixels(RewardTests):
        name = "bright-pixels"
        options = {"threshold": 0.5}

and one by one, from the modules `contract`, `rewards`, `backbones`, `regularizers`, `trainers` and `callbacks`.

`fakes` has small components to test others with, `FakeDistribution` and `isolated_registry` stand in for what is
installed. Importing this package imports torch, but no pytest.
"""

from orwcfm_core.testing.distribution import FakeDistribution, isolated_registry
from orwcfm_core.testing.subject import Result, Subject
from orwcfm_core.testing.suites import (
    CHECKS,
    BackboneTests,
    CallbackTests,
    PluginTests,
    RegularizerTests,
    RewardTests,
    TrainerTests,
    check,
    run_check,
)

__all__ = [
    "CHECKS",
    "BackboneTests",
    "CallbackTests",
    "FakeDistribution",
    "PluginTests",
    "RegularizerTests",
    "Result",
    "RewardTests",
    "Subject",
    "TrainerTests",
    "check",
    "isolated_registry",
    "run_check",
]
