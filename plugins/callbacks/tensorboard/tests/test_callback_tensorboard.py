"""The event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from orwcfm_callback_tensorboard.callback import TensorBoard
from orwcfm_callback_tensorboard.plugin import Config
from orwcfm_core.events import Callbacks, Run
from orwcfm_core.testing import CallbackTests
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

CONFIG = {"train": {"name": "orw-cfm", "rounds": 4, "lr": 0.5}, "reward": {"prompt": ["a", "b"], "seed": None}}


class TestTensorBoard(CallbackTests):
    name = "tensorboard"


def picture(run: Run, number: int) -> None:
    path = run.path / "samples" / f"round_{number:04d}.png"
    path.parent.mkdir(exist_ok=True)
    # Grey ones and coloured ones, as backbones make them.
    Image.new("RGB", (6, 4), (number, 20, 30)).save(path) if number else Image.new("L", (6, 4), 7).save(path)


def begin(path: Path, first_round: int = 0) -> tuple[TensorBoard, Callbacks, Run]:
    callback = TensorBoard(Config())
    callbacks, run = Callbacks({"tensorboard": callback}), Run(path, CONFIG, first_round)
    picture(run, 0)
    callbacks.run_start(run, {"reward_mean": 0.25, "diversity": None})
    return callback, callbacks, run


def go_on(callbacks: Callbacks, run: Run, rounds: range, loss: float = 1.0) -> None:
    for n in rounds:
        callbacks.round_end(run, {"round": n, "loss": loss / n, "heldout_judge": None if n == 2 else 0.5})
        if n % 2 == 0:
            picture(run, n)
            callbacks.checkpoint(run, run.path / "checkpoints" / f"round_{n:04d}")


def read(path: Path) -> EventAccumulator:
    log = EventAccumulator(str(path / "tensorboard"))
    log.Reload()
    return log


def scalars(log: EventAccumulator, name: str) -> dict[int, float]:
    events = log.Scalars(name)
    values = {event.step: event.value for event in events}
    assert len(values) == len(events)
    return values


def text(log: EventAccumulator, name: str) -> dict[int, str]:
    return {e.step: e.tensor_proto.string_val[0].decode() for e in log.Tensors(f"{name}/text_summary")}


def test_a_run_is_logged(tmp_path: Path) -> None:
    _, callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 5))
    callbacks.run_end(run, "done", {"reward_mean": 0.75, "diversity": None})
    log = read(tmp_path)
    assert scalars(log, "loss") == pytest.approx({n: 1 / n for n in range(1, 5)})
    assert scalars(log, "heldout_judge") == {1: 0.5, 3: 0.5, 4: 0.5}
    assert scalars(log, "reference/reward_mean") == {0: 0.25}
    assert scalars(log, "final/reward_mean") == {4: 0.75}
    assert not any("diversity" in name for name in log.Tags()["scalars"])
    assert text(log, "checkpoint") == {2: "round_0002", 4: "round_0004"}
    assert text(log, "status") == {4: "done"}


def test_every_grid_is_there_once(tmp_path: Path) -> None:
    _, callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 5))
    callbacks.run_end(run, "done", {})
    images = {e.step: Image.open(io.BytesIO(e.encoded_image_string)) for e in read(tmp_path).Images("samples")}
    assert list(images) == [0, 2, 4]
    assert images[0].getpixel((5, 3)) == (7, 7, 7)
    assert images[4].getpixel((5, 3)) == (4, 20, 30)
    assert images[4].size == (6, 4)


def test_the_configuration_is_among_the_hyperparameters(tmp_path: Path) -> None:
    _, callbacks, run = begin(tmp_path)
    callbacks.run_end(run, "failed", {})
    log = read(tmp_path)
    content = log.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert set(options) == {"train.name", "train.rounds", "train.lr", "reward.prompt"}
    assert options["train.lr"].number_value == 0.5
    assert options["reward.prompt"].string_value == '["a", "b"]'
    assert text(log, "status") == {0: "failed"}


@pytest.mark.parametrize("first_round", [0, 2])
def test_a_killed_run_goes_on_in_the_same_log(first_round: int, tmp_path: Path) -> None:
    killed, callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 4))
    assert killed.writer
    killed.writer.flush()
    _, callbacks, run = begin(tmp_path, first_round)
    go_on(callbacks, run, range(first_round + 1, 5), loss=2.0)
    callbacks.run_end(run, "done", {})
    log = read(tmp_path)
    assert scalars(log, "loss") == pytest.approx({n: (1 if n <= first_round else 2) / n for n in range(1, 5)})
    assert scalars(log, "reference/reward_mean") == {0: 0.25}
    assert [event.step for event in log.Images("samples")] == [0, 2, 4]
    assert "_hparams_/session_start_info" in log.PluginTagToContent("hparams")


def test_what_precedes_a_checkpoint_is_on_the_disk(tmp_path: Path) -> None:
    _, callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 3))
    log = read(tmp_path)
    assert list(scalars(log, "loss")) == [1, 2]
    assert [event.step for event in log.Images("samples")] == [0, 2]


def test_an_end_without_a_start(tmp_path: Path) -> None:
    Callbacks({"tensorboard": TensorBoard(Config())}).run_end(Run(tmp_path, CONFIG), "failed", {})
    assert not list(tmp_path.iterdir())
