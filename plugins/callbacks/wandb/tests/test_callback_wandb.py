"""Offline logs, read back record by record from the file that `wandb sync` uploads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from orwcfm_callback_wandb.callback import Wandb
from orwcfm_callback_wandb.plugin import Config
from orwcfm_core.events import Callbacks, Run
from orwcfm_core.testing import CallbackTests
from PIL import Image
from pydantic import ValidationError
from wandb.proto.wandb_internal_pb2 import Record

CONFIG = {"train": {"name": "orw-cfm", "rounds": 4}, "reward": {"prompt": ["a", "b"]}}


class TestWandb(CallbackTests):
    name = "wandb"


def picture(run: Run, number: int) -> None:
    path = run.path / "samples" / f"round_{number:04d}.png"
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (6, 4), (number, 20, 30)).save(path)


def begin(path: Path, first_round: int = 0) -> tuple[Callbacks, Run]:
    callbacks, run = Callbacks({"wandb": Wandb(Config())}), Run(path, CONFIG, first_round)
    picture(run, 0)
    callbacks.run_start(run, {"reward_mean": 0.25, "diversity": None})
    return callbacks, run


def go_on(callbacks: Callbacks, run: Run, rounds: range) -> None:
    for n in rounds:
        callbacks.round_end(run, {"round": n, "loss": 1 / n, "heldout_judge": None if n == 2 else 0.5})
        if n % 2 == 0:
            picture(run, n)
            callbacks.checkpoint(run, run.path / "checkpoints" / f"round_{n:04d}")


def records(file: Path) -> Iterator[Record]:
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if at > len(data):  # being written
            return
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def table(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read(folder: Path) -> dict[str, Any]:
    """What a log says of itself, its history by step, its summary and its exit code, which is the last record."""
    # wandb finishes the file a moment after the run.
    for _ in range(100):
        found = list(records(next(folder.glob("*.wandb"))))
        if found and found[-1].HasField("exit"):
            break
        time.sleep(0.05)
    log: dict[str, Any] = {"history": {}, "summary": {}, "exit_code": found[-1].exit.exit_code}
    for record in found:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            log |= {"id": record.run.run_id, "name": record.run.display_name, "project": record.run.project}
            log["config"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            log["history"][record.history.step.num] = table(record.history.item)
        elif kind == "summary":
            log["summary"] |= table(record.summary.update)
    return log


def logs(path: Path) -> list[Path]:
    return sorted((path / "wandb").glob("offline-run-*"))


def column(log: dict[str, Any], name: str) -> dict[int, Any]:
    return {step: values[name] for step, values in log["history"].items() if name in values}


def test_a_run_is_logged(tmp_path: Path) -> None:
    callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 5))
    callbacks.run_end(run, "done", {"reward_mean": 0.75, "diversity": None})
    (folder,) = logs(tmp_path)
    log = read(folder)
    assert (log["name"], log["project"], log["exit_code"]) == (tmp_path.name, "orwcfm", 0)
    assert {section: log["config"][section] for section in CONFIG} == CONFIG
    assert column(log, "loss") == {n: 1 / n for n in range(1, 5)}
    assert column(log, "round") == {n: n for n in range(1, 5)}
    assert column(log, "heldout_judge") == {1: 0.5, 3: 0.5, 4: 0.5}
    said = {"reference/reward_mean": 0.25, "final/reward_mean": 0.75, "checkpoint": "round_0004", "status": "done"}
    assert log["summary"].items() >= said.items()
    assert not any("diversity" in name for name in log["summary"])


def test_every_grid_is_there_once(tmp_path: Path) -> None:
    callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 5))
    callbacks.run_end(run, "done", {})
    (folder,) = logs(tmp_path)
    paths = column(read(folder), "samples/path")
    assert list(paths) == [0, 2, 4]
    for n, path in paths.items():
        assert Image.open(folder / "files" / path).getpixel((0, 0)) == (n, 20, 30)


@pytest.mark.parametrize(("status", "exit_code"), [("interrupted", 255), ("failed", 1)])
def test_how_a_run_ended_is_passed_on(status: str, exit_code: int, tmp_path: Path) -> None:
    callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 2))
    callbacks.run_end(run, status, {})
    log = read(logs(tmp_path)[0])
    assert log["exit_code"] == exit_code
    assert log["summary"]["status"] == status
    assert list(log["history"]) == [0, 1]


def test_a_resumed_run_goes_on_under_the_same_id(tmp_path: Path) -> None:
    callbacks, run = begin(tmp_path)
    go_on(callbacks, run, range(1, 3))
    callbacks.run_end(run, "interrupted", {})
    callbacks, run = begin(tmp_path, first_round=2)
    go_on(callbacks, run, range(3, 5))
    callbacks.run_end(run, "done", {})
    first, second = (read(folder) for folder in logs(tmp_path))
    assert first["id"] == second["id"] == (tmp_path / "wandb" / "id").read_text()
    assert list(first["history"]) == [0, 1, 2]
    assert list(second["history"]) == [3, 4]
    assert list(column(second, "samples/path")) == [4]
    begin(other := tmp_path / "other")[0].run_end(Run(other, CONFIG), "done", {})
    assert read(logs(other)[0])["id"] != first["id"]


def test_disabled_logs_nothing(tmp_path: Path) -> None:
    callbacks, run = Callbacks({"wandb": Wandb(Config(mode="disabled"))}), Run(tmp_path, CONFIG)
    callbacks.run_start(run, {})
    go_on(callbacks, run, range(1, 3))
    callbacks.run_end(run, "done", {})
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["id"]


def test_signal_handlers_are_left_alone(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    callbacks, run = begin(tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    callbacks.run_end(run, "done", {})


def test_an_end_without_a_start(tmp_path: Path) -> None:
    Callbacks({"wandb": Wandb(Config())}).run_end(Run(tmp_path, CONFIG), "failed", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"mode": "shared"}, {"project": ""}, {"entity": "me"}])
def test_wrong_options(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(options)


# Waits for Ctrl-C as a run does: it notes it, and ends the run after the round.
RUN = """
import signal, sys, time
from pathlib import Path
from orwcfm_callback_wandb.callback import Wandb
from orwcfm_callback_wandb.plugin import Config
from orwcfm_core.events import Callbacks, Run

caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
callbacks, run = Callbacks({"wandb": Wandb(Config())}), Run(Path(sys.argv[1]), {})
callbacks.run_start(run, {})
callbacks.round_end(run, {"round": 1, "loss": 0.5})
print("ready", flush=True)
while not caught:
    time.sleep(0.01)
callbacks.round_end(run, {"round": 2, "loss": 0.25})
callbacks.run_end(run, "interrupted", {})
"""


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """Address of a proxy, and the first lines that it was sent; whatever asks it is refused."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(1024).split(b"\r\n")[0])

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked


def test_ctrl_c_ends_well_without_network_or_processes_left(
    tmp_path: Path, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    proxies = {name: address for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)],
        env=os.environ | proxies,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        # A terminal sends it to all processes of the group.
        os.killpg(child.pid, signal.SIGINT)
        assert child.stdout.read() == ""
        assert child.wait(20) == 0
    log = read(logs(tmp_path)[0])
    assert column(log, "loss") == {1: 0.5, 2: 0.25}
    assert log["exit_code"] == 255
    if shutil.which("ps"):
        processes = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert f"--pid {child.pid}" not in processes
    assert not asked
