"""Offline and ranked regression on `gmm`: what they learn from, with which weights, and their gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.orw_cfm import Rollout
from orwcfm_core.testing.gradients import Update, one_update, trainer_on_gmm
from orwcfm_core.trainer import State
from orwcfm_core.weighting import Exp, TopK
from orwcfm_trainer_weighted.data import read_samples
from PIL import Image
from torch import Tensor

SET = {"data_samples": 200, "watch": 8}


def tilt(scores: Tensor) -> Tensor:
    return scores.mul(2).exp() / scores.mul(2).exp().mean()


def agree(found: Update, loss: Tensor) -> None:
    derived = found.derived(loss)
    assert float(derived.norm()) > 1e-3
    torch.testing.assert_close(found.gradient, derived, rtol=2e-4, atol=2e-5 * float(derived.abs().max()))


@pytest.mark.parametrize(("name", "options"), [("rwr", SET), ("raft", {}), ("reft", SET)])
def test_the_gradient_is_that_of_weighted_flow_matching(name: str, options: dict[str, Any]) -> None:
    trainer, state = trainer_on_gmm(name, options, tilt, alpha=0.3)
    at = one_update(trainer, state)
    squares = ((at.v - at.u_t) ** 2).sum(1) / 2, ((at.v - at.v_ref) ** 2).sum(1) / 2
    agree(at, at.w * squares[0] + 0.3 * squares[1])


def test_the_set_comes_from_the_reference_once_and_every_sample_keeps_its_weight() -> None:
    trainer, state = trainer_on_gmm("rwr", SET, tilt)
    for p in state.ema.average:
        p.add_(1.0)
    first, second = trainer.round(state)["nfe"], trainer.round(state)["nfe"]
    assert first - second == 200 * 4
    assert second == 2 * 48
    kept = {name: tensor.clone() for name, tensor in state.memory.items()}
    mixture = state.components.backbone.mixture
    near = (kept["x_1"][:, None] - mixture.means.float()).norm(dim=2).amin(1)
    assert float(near.mean()) < 1.5
    x_1, w, *_ = trainer.lesson(state, trainer.collect(state))
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.memory.items())
    scores = state.components.objective.terms[0].reward.score(kept["x_1"], [""] * 200).values
    wanted = dict(zip(kept["x_1"][:, 0].tolist(), tilt(scores).tolist(), strict=True))
    assert [wanted[x] for x in x_1[:, 0].tolist()] == pytest.approx(w.tolist(), rel=1e-5)


def test_filtering_leaves_the_best_with_equal_weights() -> None:
    trainer, state = trainer_on_gmm("reft", SET, torch.ones_like)
    state.components.weighting = TopK(0.1)
    trainer.round(state)
    assert state.memory["weights"].tolist() == [1.0] * 20
    scores = state.components.objective.terms[0].reward.score(state.memory["x_1"], [""] * 20).values
    assert scores.tolist() == [1.0] * 20


@pytest.mark.parametrize("watch", [8, 100])
def test_metrics_are_those_of_the_policy_and_not_of_the_set(watch: int) -> None:
    trainer, state = trainer_on_gmm("rwr", SET | {"watch": watch}, tilt)
    rollout = trainer.collect(state)
    assert len(rollout.x_1) == watch
    assert not any(torch.equal(x, y) for x in rollout.x_1 for y in state.memory["x_1"])


def test_all_prompts_are_watched_in_turn() -> None:
    trainer, state = trainer_on_gmm("rwr", SET, tilt)
    state.components.prompts = tuple("abcdefghijkl")
    seen = []
    for state.round in range(3):
        seen += trainer.collect(state).prompts
    assert seen == list("abcdefghijkl" * 2)


def test_a_part_of_the_set_without_negative_weights_is_still_of_a_signed_one() -> None:
    trainer, state = trainer_on_gmm("rwr", SET, lambda scores: torch.where(torch.arange(len(scores)) < 2, -1.0, 1.0))
    lessons = [trainer.lesson(state, trainer.collect(state)) for _ in range(4)]
    assert any(bool((lesson.w > 0).all()) for lesson in lessons)
    assert all(lesson.signed for lesson in lessons)


def test_watched_samples_without_a_score_stop_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, state = trainer_on_gmm("rwr", SET, tilt)
    collect = trainer.collect

    def unscored(state: State) -> Rollout:
        rollout = collect(state)
        return replace(rollout, valid=torch.zeros_like(rollout.valid))

    monkeypatch.setattr(trainer, "collect", unscored)
    found = trainer.round(state)
    assert (found["skipped"], found["reward_mean"]) == (0, None)
    assert found["loss"] > 0


def test_many_rounds_end_at_the_tilt_of_a_single_one() -> None:
    # Online, the tilt would be applied in every round.
    options = {"data_samples": 4096, "samples": 1024, "rounds": 50, "updates": 8, "lr": 0.03, "decay": 0.01}
    trainer, state = trainer_on_gmm("rwr", options | {"clip_norm": 1.0}, tilt, steps=24)
    for _ in range(50):
        trainer.round(state)
    x_1, _ = state.sample(state.noise(4000), [""] * 4000)
    backbone = state.components.backbone
    shares = backbone.mixture.posterior(x_1).mean(0)
    values = torch.tensor([1.0, 0.5, 0, 0, 0, 0, 0, 0])
    expected = (2 * values).softmax(0)
    assert float((shares - expected).abs().sum()) / 2 < 0.07
    assert float((shares - (4 * values).softmax(0)).abs().sum()) / 2 > 0.15


def test_nothing_valid_ends_the_run() -> None:
    trainer, state = trainer_on_gmm("rwr", SET, torch.zeros_like)
    with pytest.raises(RunError, match="no sample of the fixed set"):
        trainer.round(state)


def test_samples_from_a_file(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    np.save(tmp_path / "points.npy", points)
    trainer, state = trainer_on_gmm("rwr", {"data": str(tmp_path / "points.npy"), "watch": 8}, tilt)
    assert trainer.round(state)["nfe"] == 2 * 48
    np.testing.assert_allclose(state.memory["x_1"].numpy(), points.astype(np.float32))


class Pictures:
    """A backbone that knows of nothing but pictures of 2x2 pixels."""

    sample_shape = (1, 2, 2)

    def from_images(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True)[:, :, :2, :2]


class Points(Pictures):
    def from_images(self, images: Tensor) -> None:
        return None


def picture(file: Path, grey: int) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.new("L", (3, 3), grey).save(file)


def test_pictures_from_folders_named_after_prompts(tmp_path: Path) -> None:
    picture(tmp_path / "a dog" / "1.png", 51)
    picture(tmp_path / "a cat" / "1.png", 255)
    picture(tmp_path / "a cat" / "2.jpg", 0)
    # Ignored types: only what reading asks of a backbone is there.
    x_1, numbers = read_samples(tmp_path, Pictures(), ("a cat", "a dog"))  # type: ignore[arg-type]
    assert numbers == [0, 0, 1]
    torch.testing.assert_close(x_1.mean((1, 2, 3)), torch.tensor([1.0, 0.0, 0.2]))
    assert len(read_samples(tmp_path, Pictures(), ("a pet",))[0]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "backbone", "prompts", "words"),
    [
        ("nowhere", Pictures(), ("",), "expected a folder of pictures or a .npy file"),
        ("empty", Pictures(), ("",), "no pictures in"),
        ("full", Pictures(), ("a", "b"), "no folder of pictures for the prompt 'a'"),
        ("full", Points(), ("",), "cannot turn pictures into samples"),
        ("broken", Pictures(), ("",), "cannot read"),
        ("points.npy", Pictures(), ("",), r"expected samples \(N, 1, 2, 2\), got \(3, 2\)"),
        ("text.npy", Pictures(), ("",), "cannot read"),
        ("deep", Pictures(), ("",), "more than 8 bits for each channel"),
        ("large", Pictures(), ("",), "cannot read"),
        ("nan.npy", Pictures(), ("",), "not finite, first in sample 1"),
    ],
)
def test_mistakes(tmp_path: Path, path: str, backbone: Any, prompts: tuple[str, ...], words: str) -> None:
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "full" / "1.png", 3)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_text("no picture")
    (tmp_path / "text.npy").write_text("no numbers")
    np.save(tmp_path / "points.npy", np.zeros((3, 2)))
    np.save(tmp_path / "nan.npy", np.array([0, np.nan, np.inf]).repeat(4).reshape(3, 1, 2, 2))
    (tmp_path / "deep").mkdir()
    Image.new("I;16", (3, 3), 60000).save(tmp_path / "deep" / "1.png")
    picture(tmp_path / "large" / "1.bmp", 3)
    header = bytearray((tmp_path / "large" / "1.bmp").read_bytes())
    header[18:26] = (99_999).to_bytes(4, "little") * 2
    (tmp_path / "large" / "1.bmp").write_bytes(header)
    with pytest.raises(UserError, match=words):
        read_samples(tmp_path / path, backbone, prompts)


def test_weightings_are_those_of_the_core() -> None:
    # `tilt` stands in for Exp above.
    scores = torch.tensor([0.0, 0.5, 1.0])
    valid, groups = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(Exp(2.0).weights(scores, valid, groups), tilt(scores))
