"""Trackio's database, read back with sqlite3."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from orwcfm_callback_trackio.callback import Trackio
from orwcfm_callback_trackio.plugin import Config
from orwcfm_core.events import Callbacks, Run
from orwcfm_core.testing import CallbackTests
from PIL import Image
from pydantic import ValidationError

CONFIG = {"train": {"name": "orw-cfm", "rounds": 4}, "reward": {"prompt": ["a", "b"]}}


@pytest.fixture(autouse=True, scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that this process logs to; the runs in it have different names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder := tmp_path_factory.mktemp("trackio")))
        yield folder


class TestTrackio(CallbackTests):
    name = "trackio"


def picture(run: Run, number: int) -> None:
    path = run.path / "samples" / f"round_{number:04d}.png"
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (6, 4), (number, 20, 30)).save(path)


def begin(path: Path, first_round: int = 0) -> tuple[Callbacks, Run]:
    callbacks, run = Callbacks({"trackio": Trackio(Config())}), Run(path, CONFIG, first_round)
    picture(run, 0)
    callbacks.run_start(run, {"reward_mean": 0.25, "diversity": None})
    return callbacks, run


def go_on(callbacks: Callbacks, run: Run, rounds: range, loss: float = 1.0) -> None:
    for n in rounds:
        callbacks.round_end(run, {"round": n, "loss": loss / n, "heldout_judge": None if n == 2 else 0.5})
        if n % 2 == 0:
            picture(run, n)
            callbacks.checkpoint(run, run.path / "checkpoints" / f"round_{n:04d}")


def rows(folder: Path, table: str, column: str, run: str) -> list[Any]:
    with sqlite3.connect(folder / "orwcfm.db") as database:
        found = database.execute(f"select {column} from {table} where run_name = ? order by id", (run,)).fetchall()
    return [value for (value,) in found]


def logged(folder: Path, run: str, name: str) -> list[tuple[int, Any]]:
    """Steps and values of a metric."""
    steps, values = rows(folder, "metrics", "step", run), rows(folder, "metrics", "metrics", run)
    pairs = zip(steps, map(json.loads, values), strict=True)
    return [(step, metrics[name]) for step, metrics in pairs if name in metrics]


def test_a_run_is_logged(tmp_path: Path, data: Path) -> None:
    callbacks, run = begin(tmp_path / "whole")
    go_on(callbacks, run, range(1, 5))
    callbacks.run_end(run, "done", {"reward_mean": 0.75, "diversity": None})
    assert logged(data, "whole", "loss") == [(n, 1 / n) for n in range(1, 5)]
    assert logged(data, "whole", "heldout_judge") == [(1, 0.5), (3, 0.5), (4, 0.5)]
    assert logged(data, "whole", "reference/reward_mean") == [(0, 0.25)]
    assert logged(data, "whole", "final/reward_mean") == [(4, 0.75)]
    assert not logged(data, "whole", "reference/diversity")
    options = json.loads(rows(data, "configs", "config", "whole")[0])
    assert options.items() >= {"train.rounds": 4, "reward.prompt": '["a", "b"]'}.items()
    assert not rows(data, "alerts", "title", "whole")


def test_every_grid_is_there_once(tmp_path: Path, data: Path) -> None:
    callbacks, run = begin(tmp_path / "grids")
    go_on(callbacks, run, range(1, 5))
    callbacks.run_end(run, "done", {})
    grids = dict(logged(data, "grids", "samples"))
    assert list(grids) == [0, 2, 4]
    for n, grid in grids.items():
        assert Image.open(data / "media" / grid["file_path"]).getpixel((0, 0))[:3] == (n, 20, 30)


@pytest.mark.parametrize(("status", "level"), [("interrupted", "warn"), ("failed", "error")])
def test_a_run_that_is_not_done_leaves_an_alert(status: str, level: str, tmp_path: Path, data: Path) -> None:
    callbacks, run = begin(tmp_path / status)
    go_on(callbacks, run, range(1, 2))
    callbacks.run_end(run, status, {})
    assert rows(data, "alerts", "title", status) == [f"Run {status}"]
    assert rows(data, "alerts", "level", status) == [level]
    assert logged(data, status, "loss") == [(1, 1.0)]


def test_a_resumed_run_goes_on_where_its_log_ends(tmp_path: Path, data: Path) -> None:
    callbacks, run = begin(tmp_path / "resumed")
    go_on(callbacks, run, range(1, 4))
    callbacks.run_end(run, "interrupted", {})
    callbacks, run = begin(tmp_path / "resumed", first_round=2)
    go_on(callbacks, run, range(3, 5), loss=2.0)
    callbacks.run_end(run, "done", {"reward_mean": 0.75})
    assert logged(data, "resumed", "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.5)]
    assert [step for step, _ in logged(data, "resumed", "samples")] == [0, 2, 4]
    assert logged(data, "resumed", "reference/reward_mean") == [(0, 0.25)]
    assert len(set(rows(data, "metrics", "run_id", "resumed"))) == 1


def test_what_a_kill_took_from_the_log_is_made_up_for(tmp_path: Path, data: Path) -> None:
    callbacks, run = begin(tmp_path / "killed")
    go_on(callbacks, run, range(1, 2))
    callbacks.run_end(run, "interrupted", {})
    picture(run, 2)
    lines = [{"round": n, "loss": 1 / n, "heldout_judge": None} for n in (1, 2)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    callbacks, run = begin(tmp_path / "killed", first_round=2)
    go_on(callbacks, run, range(3, 4))
    callbacks.run_end(run, "done", {})
    assert logged(data, "killed", "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [step for step, _ in logged(data, "killed", "samples")] == [0, 2]


def test_a_new_run_of_the_same_name_is_another(tmp_path: Path, data: Path) -> None:
    for parent in ("a", "b"):
        callbacks, run = begin(tmp_path / parent / "twin")
        callbacks.run_end(run, "done", {})
    assert len(set(rows(data, "metrics", "run_id", "twin"))) == 2


def test_an_end_without_a_start(tmp_path: Path) -> None:
    Callbacks({"trackio": Trackio(Config())}).run_end(Run(tmp_path, CONFIG), "failed", {})
    assert not list(tmp_path.iterdir())


def test_a_second_folder_is_said_to_be_unused(tmp_path: Path, data: Path) -> None:
    begin(tmp_path / "before")[0].run_end(Run(tmp_path, CONFIG), "done", {})
    callbacks, run = Callbacks({"trackio": Trackio(Config(folder=tmp_path / "data"))}), Run(tmp_path / "late", CONFIG)
    with pytest.warns(UserWarning, match="a process logs to one folder"):
        callbacks.run_start(run, {"reward_mean": 0.5})
    callbacks.run_end(run, "done", {})
    assert logged(data, "late", "reference/reward_mean") == [(0, 0.5)]
    assert os.environ["TRACKIO_DIR"] == str(data)


@pytest.mark.parametrize("options", [{"project": ""}, {"space_id": "me/mine"}])
def test_wrong_options(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(options)


RUN = """
import os, sys
from pathlib import Path

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print(event, arguments)

sys.addaudithook(forbid)
from orwcfm_callback_trackio.callback import Trackio
from orwcfm_callback_trackio.plugin import Config
from orwcfm_core.events import Callbacks, Run

folder = Path(sys.argv[2]) if len(sys.argv) > 2 else None
callbacks, run = Callbacks({"trackio": Trackio(Config(folder=folder))}), Run(Path(sys.argv[1]), {})
callbacks.run_start(run, {})
callbacks.round_end(run, {"round": 1, "loss": 0.5})
callbacks.run_end(run, "done", {})
assert "TRACKIO_DIR" not in os.environ
"""


@pytest.mark.parametrize("folder", ["", "shared"])
def test_data_are_in_the_run_folder_or_where_asked_and_all_is_quiet(folder: str, tmp_path: Path) -> None:
    run = tmp_path / "alone"
    run.mkdir()
    arguments = [str(run), *([str(tmp_path / folder)] if folder else [])]
    # Logged in to Hugging Face, which Trackio would ask for a name.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKIO_", "HF_"))}
    variables |= {"HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "1"}
    said = subprocess.run([sys.executable, "-c", RUN, *arguments], env=variables, capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert logged(tmp_path / folder if folder else run / "trackio", "alone", "loss") == [(1, 0.5)]
