"""Each check of a backbone fails the backbones that it is for, and those alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from orwcfm_core.backbone import Condition
from orwcfm_core.plugin import BackboneSpec, ComponentConfig
from orwcfm_core.testing.fakes import AffineBackbone, AffineField
from torch import Tensor


def spec(**declared: Any) -> BackboneSpec:
    good = {"produces": "points"}
    return BackboneSpec(name="toy", summary="A toy.", config=ComponentConfig, factory="x:Y", **(good | declared))


class Prompted(AffineBackbone):
    """Takes the length of the prompt for a rate."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        return {"length": torch.tensor([float(len(prompt)) for prompt in prompts])}


class PromptedField(AffineField):
    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return super().velocity(t, x, condition) + condition["length"][:, None]


def prompted() -> AffineBackbone:
    return spoiled(PromptedField, Prompted())


def spoiled(field: type[AffineField], backbone: AffineBackbone | None = None) -> AffineBackbone:
    """A backbone whose policy and reference are another kind of field."""
    backbone = backbone or AffineBackbone()
    backbone._policy, backbone._reference = field(2, False, True), field(2, False, False)
    return backbone


def changed(**methods: Any) -> AffineBackbone:
    """A backbone of which some methods are others."""
    return type("Changed", (AffineBackbone,), methods)()


def velocity(change: Any) -> AffineBackbone:
    """A backbone whose velocities are changed."""

    def changed_velocity(self: AffineField, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return change(AffineField.velocity(self, t, x, condition), t, x)

    return spoiled(type("Field", (AffineField,), {"velocity": changed_velocity}))


def parameters(change: Any) -> AffineBackbone:
    """A backbone whose policy names other parameters."""

    def other(self: AffineField) -> Mapping[str, Tensor]:
        return change(AffineField.parameters(self), self)

    return spoiled(type("Field", (AffineField,), {"parameters": other}))


def shared_reference(constant: bool = False) -> AffineBackbone:
    """The reference moves with the policy, though no gradient passes."""
    backbone = AffineBackbone(2, constant)
    for name in ("offset", "slope", "rate"):
        setattr(backbone._reference, name, getattr(backbone._policy, name).detach())
    return backbone


def elsewhere() -> AffineBackbone:
    backbone = AffineBackbone()
    backbone._reference.offset += 1
    return backbone


def grid() -> AffineBackbone:
    """Samples of two dimensions."""
    methods = {"sample_shape": property(lambda self: (1, 2)), "to_images": lambda self, x_1: x_1.sigmoid()[:, None]}
    return type("Grid", (AffineBackbone,), methods)(constant=True)


def once_reversed(found: Mapping[str, Tensor], field: AffineField) -> Mapping[str, Tensor]:
    field.turn = not getattr(field, "turn", False)
    return dict(sorted(found.items(), reverse=field.turn))


def frozen_slope(found: Mapping[str, Tensor], field: AffineField) -> Mapping[str, Tensor]:
    field.slope.requires_grad_(False)
    return found


def unused(found: Mapping[str, Tensor], field: AffineField) -> Mapping[str, Tensor]:
    field.spare = getattr(field, "spare", torch.zeros(3, requires_grad=True))
    return {**found, "spare": field.spare}


def tied(found: Mapping[str, Tensor], field: AffineField) -> Mapping[str, Tensor]:
    return {**found, "again": found["slope"]}


class Drawn(AffineBackbone):
    """Draws what it is built with."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        with torch.no_grad():
            self._reference.offset += (drawn := draw())
            self._policy.offset += drawn


def shifted(self: AffineBackbone, device: torch.device) -> AffineBackbone:
    with torch.no_grad():
        self._policy.offset.add_(1)
    return self


WRONG = {
    "points of two dimensions": (grid, {}, "sample_shape"),
    "produces nonsense": (AffineBackbone, {"produces": "sound"}, "sample_shape"),
    "no batch of one": (lambda: velocity(lambda v, t, x: v.squeeze()), {}, "velocity"),
    "another dtype": (lambda: velocity(lambda v, t, x: v.double()), {}, "velocity"),
    "time of no dimension": (lambda: velocity(lambda v, t, x: v if t.ndim else v + 1), {}, "time"),
    "mean over the batch": (lambda: velocity(lambda v, t, x: v + 0.1 * x.mean(0)), {}, "samples_independent"),
    "place in the batch": (
        lambda: velocity(lambda v, t, x: v + torch.arange(len(v))[:, None]),
        {},
        "samples_independent",
    ),
    "a frozen parameter": (lambda: parameters(frozen_slope), {}, "gradient"),
    "an unused parameter": (lambda: parameters(unused), {}, "gradient"),
    "tied parameters": (lambda: parameters(tied), {}, "state_round_trip"),
    "another reference": (elsewhere, {}, "reference_equal"),
    "a reference that is trained": (lambda: AffineBackbone(trainable_reference=True), {}, "reference_frozen"),
    "a reference that moves": (shared_reference, {}, "reference_frozen"),
    "a constant one that moves": (lambda: shared_reference(constant=True), {}, "reference_frozen"),
    "pixels out of range": (lambda: changed(to_images=lambda self, x: x[:, None, None]), {}, "to_images"),
    "images of two dimensions": (lambda: changed(to_images=lambda self, x: x.sigmoid()), {}, "to_images"),
    "an undeclared condition": (prompted, {}, "prompts"),
    "prompts without effect": (Prompted, {"conditional": lambda config: True}, "prompts"),
    "no condition": (AffineBackbone, {"conditional": lambda config: True}, "prompts"),
    "dropout": (lambda: velocity(lambda v, t, x: v + 0 * torch.rand(1)), {}, "random_state"),
    "another one each time": (lambda: Drawn(random.random), {}, "second_instance"),
    "order": (lambda: parameters(once_reversed), {}, "parameter_order"),
    "moves to nothing": (lambda: changed(to=lambda self, device: None), {}, "moves"),
    "moves elsewhere": (lambda: changed(to=shifted), {}, "moves"),
}


@pytest.mark.parametrize(("make", "declared", "fails"), WRONG.values(), ids=WRONG)
def test_a_wrong_backbone_fails_its_check(make: Any, declared: Any, fails: str, failures: Any) -> None:
    assert list(failures("backbone", spec(**declared), lambda config: make())) == [fails]


def test_what_torch_draws_may_be_built_in(failures: Any) -> None:
    assert not failures("backbone", spec(), lambda config: Drawn(lambda: torch.rand(())))


def test_another_object_every_time_fails(failures: Any) -> None:
    class Fresh(AffineBackbone):
        def reference(self) -> AffineField:
            return AffineField(2, False, False)

    assert list(failures("backbone", spec(), lambda config: Fresh())) == ["same_objects"]


GOOD = {
    "points": (AffineBackbone, {}),
    "a constant": (lambda: AffineBackbone(3, constant=True), {}),
    "images": (grid, {"produces": "images"}),
    "prompts": (prompted, {"conditional": lambda config: True}),
}


@pytest.mark.parametrize(("make", "declared"), GOOD.values(), ids=GOOD)
def test_a_good_backbone_passes_and_is_left_as_it_was(make: Any, declared: Any, failures: Any) -> None:
    backbone = make()
    assert failures("backbone", spec(**declared), lambda config: backbone) == {}
    assert not any(p.any() for p in backbone.policy().parameters().values())


def test_state_outside_of_the_parameters_fails(failures: Any) -> None:
    class Counting(AffineField):
        calls = 0

        def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
            self.calls += int(self.offset.requires_grad)
            return super().velocity(t, x, condition) + 0.01 * self.calls

    found = failures("backbone", spec(), lambda config: spoiled(Counting))
    assert "all that training changes must be in parameters()" in found["state_round_trip"]
