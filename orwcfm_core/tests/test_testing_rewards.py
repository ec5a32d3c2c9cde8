"""Each check of a reward fails the rewards that it is for, and those alone."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from orwcfm_core.errors import UserError
from orwcfm_core.plugin import ComponentConfig, Example, RewardSpec
from orwcfm_core.reward import Reward, Scores
from orwcfm_core.testing.fakes import FunctionReward
from torch import Tensor


class Bright(Reward):
    """Mean brightness; `change` spoils it."""

    def __init__(self, change: Callable[..., Any] = lambda v, images, prompts: v) -> None:
        self.change = change

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        values = self.change(images.nan_to_num(0.0).flatten(1).mean(1), images, prompts)
        return values if isinstance(values, Scores) else Scores(values, images.flatten(1).isfinite().all(1))

    def features(self, images: Tensor) -> Tensor | None:
        return images.flatten(1)[:, ::7]


def spec(**declared: Any) -> RewardSpec:
    good = {"value_range": (0.0, 2.0), "differentiable": True, "reads_prompts": False}
    return RewardSpec(name="bright", summary="A toy.", config=ComponentConfig, factory="x:Y", **(good | declared))


def connects(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    with suppress(OSError), socket.socket() as s:
        s.connect(("127.0.0.1", 9))
    return v


def looks_up(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    with suppress(OSError):
        socket.getaddrinfo("localhost", 80)
    return v


def asks_a_neighbour(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """A socket of the file system is no network; that nobody listens there is another matter."""
    with socket.socket(socket.AF_UNIX) as s:
        assert s.connect_ex("/nowhere") > 0
    return v


def refuses_empty(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    if "" in prompts:
        raise ValueError("empty prompt")
    return v


def says_what_to_set(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    if "" in prompts:
        raise UserError("the prompt is empty: set reward.prompt")
    return reads(v, images, prompts)


def nan_at_empty(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Scores:
    return Scores(v + torch.tensor([0.01 * len(prompt) if prompt else torch.nan for prompt in prompts]))


def colour_alone(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    return 0.5 * (images[:, 0] + images[:, 2]).nan_to_num(0.0).flatten(1).mean(1)


def reads(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    return v + torch.tensor([0.01 * len(prompt) for prompt in prompts])


def seeds(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
    torch.manual_seed(0)
    return v


WRONG = {
    "no batch of one": (lambda v, i, p: v.squeeze(), {}, "scores"),
    "all invalid": (lambda v, i, p: Scores(v, torch.zeros(len(v), dtype=torch.bool)), {}, "scores"),
    "place in the batch": (lambda v, i, p: v + 0.1 * (torch.arange(len(v)) % 2), {}, "batch_order"),
    "size of the batch": (lambda v, i, p: v + 0.01 * len(v), {}, "batch_split"),
    "writes to images": (lambda v, i, p: (i.data.mul_(0.5), v)[1], {}, "inputs_unchanged"),
    "writes to prompts": (lambda v, i, p: (p.append(""), v)[1], {}, "inputs_unchanged"),
    "torch's random state": (lambda v, i, p: v + 0 * torch.rand(len(v)), {}, "random_state"),
    "numpy's random state": (lambda v, i, p: v + 0 * np.random.rand(), {}, "random_state"),
    "python's random state": (lambda v, i, p: v + 0 * random.random(), {}, "random_state"),
    "seeds torch": (seeds, {}, "random_state"),
    "above its range": (lambda v, i, p: v, {"value_range": (0.0, 0.9)}, "value_range"),
    "no probability": (lambda v, i, p: 2 * v, {"probability": True}, "value_range"),
    "a probability above its range": (
        lambda v, i, p: v,
        {"probability": True, "value_range": (0.0, 0.9)},
        "value_range",
    ),
    "below its range": (lambda v, i, p: v, {"value_range": (0.1, None)}, "value_range"),
    "detached": (lambda v, i, p: v.detach(), {}, "gradient"),
    "gradient of zero": (lambda v, i, p: v.detach() + 0 * v, {}, "gradient"),
    "gradient of infinity": (lambda v, i, p: v + (v - v.detach()).sqrt(), {}, "gradient"),
    "undeclared gradient": (lambda v, i, p: v, {"differentiable": False}, "gradient"),
    "NaN without a mask": (lambda v, i, p: Scores(i.flatten(1).mean(1)), {}, "mask"),
    "NaN next door": (lambda v, i, p: v + 0.1 * i.isnan().any(), {}, "mask"),
    "connects": (connects, {}, "offline_scoring"),
    "looks up a host": (looks_up, {}, "offline_scoring"),
    "ignores the prompt": (lambda v, i, p: v, {"reads_prompts": True}, "prompts"),
    "reads the prompt": (reads, {}, "prompts"),
    "refuses an empty prompt": (refuses_empty, {}, "prompts"),
    "crashes at an empty prompt": (
        lambda v, i, p: refuses_empty(reads(v, i, p), i, p),
        {"reads_prompts": True},
        "empty_prompt",
    ),
    "NaN at an empty prompt": (nan_at_empty, {"reads_prompts": True}, "empty_prompt"),
}


@pytest.mark.parametrize(("change", "declared", "fails"), WRONG.values(), ids=WRONG)
def test_a_wrong_reward_fails_its_check(change: Any, declared: Any, fails: str, failures: Any) -> None:
    assert list(failures("reward", spec(**declared), lambda config: Bright(change))) == [fails]


GOOD = {
    "plain": (lambda config: Bright(), {}),
    "reads the prompt": (lambda config: Bright(reads), {"reads_prompts": True}),
    "refuses an empty prompt": (lambda config: Bright(says_what_to_set), {"reads_prompts": True}),
    "colour alone": (lambda config: Bright(colour_alone), {}),
    "numpy": (
        lambda config: Bright(lambda v, i, p: torch.from_numpy(i.nan_to_num(0).numpy().mean((1, 2, 3)))),
        {"differentiable": False},
    ),
    "asks a neighbour": (lambda config: Bright(asks_a_neighbour), {}),
    "no mask": (lambda config: Bright(lambda v, i, p: Scores(v)), {}),
    "points": (
        lambda config: FunctionReward(lambda x: Scores(x[:, 0], x.isfinite().all(1))),
        {"accepts": "points", "value_range": (None, None), "example": Example(shape=(2,))},
    ),
    "random": (
        lambda config: Bright(lambda v, i, p: v + 0.01 * torch.rand(len(v), generator=torch.Generator())),
        {"deterministic": False},
    ),
}


@pytest.mark.parametrize(("make", "declared"), GOOD.values(), ids=GOOD)
def test_a_good_reward_passes(make: Any, declared: Any, failures: Any) -> None:
    assert failures("reward", spec(**declared), make) == {}


def test_the_network_is_back_afterwards(failures: Any) -> None:
    connect = socket.socket.connect
    assert failures("reward", spec(), lambda config: Bright()) == {}
    assert socket.socket.connect is connect
    with pytest.raises(ConnectionRefusedError), socket.socket() as s:
        s.connect(("127.0.0.1", 9))


def test_an_instance_that_is_built_at_random_fails(failures: Any) -> None:
    def make(config: ComponentConfig) -> Reward:
        offset = int.from_bytes(os.urandom(4), "big") / 2**33
        return Bright(lambda v, i, p: v + offset)

    assert list(failures("reward", spec(value_range=(None, None)), make)) == ["deterministic"]


def test_another_score_every_time_fails_all_comparisons(failures: Any) -> None:
    calls = iter(range(1000))
    found = failures("reward", spec(), lambda config: Bright(lambda v, i, p: v + 1e-3 * next(calls)))
    assert set(found) == {"batch_order", "batch_split", "deterministic", "mask", "moves", "prompts"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda v: Scores(v[:, None]), "expected one score per image, shape (1,), got shape (1, 1)"),
        (lambda v: Scores(v.tolist()), "expected one score per image, shape (1,), got a list"),
        (lambda v: Scores(v.long()), "expected floating-point scores, got torch.int64"),
        (lambda v: Scores(v, v), "expected a mask of booleans, shape (1,), got shape (1,) torch.float32"),
        (lambda v: Scores(v / 0), "1 of 1 scores are NaN or infinite: mark them as invalid in Scores.valid"),
    ],
)
def test_what_a_reward_returns_is_described(returned: Any, message: str, failures: Any) -> None:
    found = failures("reward", spec(), lambda config: Bright(lambda v, i, p: returned(v)))
    assert found["scores"].startswith(message)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda images: images.flatten(1) - images.flatten(1).mean(0), "features of an image depend on the others"),
        (lambda images: images, "expected features (5, D), got shape (5, 3, 32, 32)"),
        (lambda images: images.flatten(1) / 0, "features are NaN or infinite"),
    ],
)
def test_wrong_features_fail(features: Any, message: str, failures: Any) -> None:
    reward = Bright()
    reward.features = features
    assert failures("reward", spec(), lambda config: reward) == {"features": message}


def test_messages_say_what_to_declare(failures: Any) -> None:
    found = failures("reward", spec(differentiable=False, reads_prompts=True, value_range=(0, 0.5)), lambda c: Bright())
    assert "declare differentiable=True" in found["gradient"]
    assert "declare reads_prompts=False" in found["prompts"]
    assert "scores from 0 to 1, but the spec declares value_range=(0, 0.5)" in found["value_range"]


@pytest.mark.parametrize(
    ("methods", "found"),
    [
        ({"to": lambda self, device: None}, {"moves": "to(device) returned something else: return self"}),
        ({"to": lambda self, device: device.index + 1}, {"moves": "raised: TypeError: "}),
        ({"describe": lambda self: "one\ntwo"}, {"describes": "expected one line of text from describe(), got 'one"}),
        ({"describe": lambda self: ""}, {"describes": "expected one line of text from describe(), got ''"}),
        ({"describe": lambda self: None}, {"describes": "expected one line of text from describe(), got None"}),
    ],
)
def test_what_the_run_calls_besides_is_called(methods: Any, found: Any, failures: Any) -> None:
    got = failures("reward", spec(), lambda config: type("Spoiled", (Bright,), methods)())
    assert got.keys() == found.keys()
    assert all(got[name].startswith(message) for name, message in found.items())


def test_a_move_that_changes_scores_fails(failures: Any) -> None:
    class Moved(Bright):
        def to(self, device: torch.device) -> Reward:
            self.change = lambda v, images, prompts: v / 2
            return self

    assert list(failures("reward", spec(), lambda config: Moved())) == ["moves"]


@pytest.mark.parametrize(
    ("shape", "note"),
    [
        ((3, 8, 8), "scores images of 3 channels only: the shipped unet backbone draws 1"),
        ((1, 8, 8), "scores images of 1 channel only: the shipped sd3 backbone draws 3"),
    ],
)
def test_another_number_of_channels_is_a_note_and_no_failure(shape: Any, note: str, results: Any) -> None:
    def demands(v: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert images.shape[1] == shape[0]
        return v

    declared = spec(example=Example(shape=shape))
    strict = results("reward", declared, lambda config: Bright(demands))
    lenient = results("reward", declared, lambda config: Bright())
    assert (strict["channels"].status, strict["channels"].message) == ("skipped", note)
    assert "failed" not in {result.status for result in strict.values()}
    assert lenient["channels"].status == "passed"
