"""Whatever is thrown at it, the command line ends with exit code 0, 1 or 2 and a line that says what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orwcfm_core.registry
import pytest
import tomli_w
from commandline import POINTS, Done, here
from fuzzing import SECTIONS, VALUES, assignments, check, command_lines, configurations, extremes, mutated
from hypothesis import note
from hypothesis import strategies as st
from orwcfm_core.errors import printable
from orwcfm_core.registry import Registry

FILES = ("metrics.jsonl", "run.toml", "reference.json", "final.json", "checkpoints/round_0004/manifest.json")


def sizes(quick: int, full: int) -> pytest.MarkDecorator:
    """Few cases each time, and all of them with what is slow: 11,200 in this file."""
    return pytest.mark.parametrize("cases", [quick, pytest.param(full, marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and a registry that is scanned once."""
    monkeypatch.chdir(tmp_path)
    registry = Registry()
    monkeypatch.setattr(orwcfm_core.registry, "Registry", lambda *path: registry)
    # A command may switch plugins off for the processes it starts, and so for the rest of this one.
    monkeypatch.setenv(orwcfm_core.registry.ALLOW, "")
    monkeypatch.delenv(orwcfm_core.registry.ALLOW)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rounds."""
    folder = tmp_path_factory.mktemp("done") / "run"
    args = (
        "--reward",
        "component",
        "--rounds",
        4,
        "--set",
        "train.checkpoint_every=2",
        "--set",
        "train.eval_samples=4",
    )
    here(*POINTS, *args, "--set", "train.samples=4", "--out", folder, code=0)
    return folder


@pytest.fixture
def run(done: Path) -> Path:
    """A copy of it."""
    shutil.copytree(done, "run")
    return Path("run")


def assert_clear(done: Done, names: Iterable[str]) -> None:
    """It ended well, or with lines each of which names an option, a file or a flag."""
    note(f"exit code {done.code}\n{done.err}")
    assert done.code in (0, 1, 2)
    assert "Traceback" not in done.err + done.out
    if done.code:
        assert done.errors, "no line says what is wrong"
        known = [printable(name) for name in names if name.strip()]
        for line in done.errors:
            assert len(line) > len("error: ")
            assert any(name in line for name in known), f"names nothing: {line}"


@sizes(100, 3000)
def test_configuration_files(cases: int) -> None:
    def read(tables: dict[str, Any]) -> None:
        try:
            text = tomli_w.dumps(tables).encode()
        except (TypeError, ValueError):
            # Not everything can be said in TOML.
            return
        Path("some.toml").write_bytes(text)
        assert_clear(here("run", "--config", "some.toml", "--print-config"), [*SECTIONS, *tables, "some.toml"])

    check(configurations(), read, cases)


@sizes(100, 2000)
def test_settings(cases: int) -> None:
    def read(settings: list[str]) -> None:
        args = [part for setting in settings for part in ("--set", setting)]
        names = [*SECTIONS, "--set", *(setting.partition(".")[0] for setting in settings)]
        assert_clear(here("run", *args, "--print-config"), names)

    check(st.lists(assignments(), max_size=6), read, cases)


@sizes(100, 2000)
def test_command_lines(cases: int, run: Path) -> None:
    def call(args: list[str]) -> None:
        if args[0] == "resume" and "run" in args[1:]:
            # Rounds by the thousand are no mistake, but not to be waited for.
            args = [*args, "--rounds", "4"]
        assert_clear(
            here(*args), [*SECTIONS, *args, "option", "command", "argument", "name", "configuration", "run.toml"]
        )

    check(command_lines(), call, cases)


@pytest.mark.parametrize(
    ("command", "cases"),
    [
        *(("report", 60), ("sample", 20), ("resume", 20)),
        *(pytest.param(*full, marks=pytest.mark.slow) for full in (("report", 2300), ("sample", 500), ("resume", 500))),
    ],
)
def test_files_of_a_run_that_were_changed(command: str, cases: int, done: Path) -> None:
    args = {"report": (), "sample": ("--count", 1), "resume": ("--rounds", 4)}[command]

    def change(how: tuple[str, int, Any]) -> None:
        name, seed, value = how
        if command != "report" and name == "run.toml":
            # What configures a run may well be changed to one that takes days.
            name = "metrics.jsonl"
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(done, "run")
        changed = mutated((done / name).read_bytes(), seed, value)
        (Path("run") / name).write_bytes(changed)
        note(f"{name}: {changed[:3000]!r}")
        assert_clear(here(command, "run", *args), ["run/", "reference", "final"])

    check(st.tuples(st.sampled_from(FILES), st.integers(0, 2**32), VALUES), change, cases)


@sizes(60, 600)
def test_configuration_of_a_run_that_was_changed(cases: int, done: Path) -> None:
    def change(how: tuple[int, Any]) -> None:
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(done, "run")
        changed = mutated((done / "run.toml").read_bytes(), *how)
        Path("run/run.toml").write_bytes(changed)
        note(f"{changed!r}")
        # An option that cannot change under way ends it before anything is built, but after all of it is read.
        assert_clear(here("resume", "run", "--set", "train.seed=1"), [*SECTIONS, "run.toml", "checkpoints"])

    check(st.tuples(st.integers(0, 2**32), VALUES), change, cases)


@sizes(20, 300)
def test_runs_of_extreme_numbers(cases: int) -> None:
    small = ("--set", "train.samples=6", "--set", "train.eval_samples=4", "--rounds", "2", "--set", "sampler.steps=2")
    # Steps are no option of every solver.
    base = (*POINTS, "--reward", "component", *small[:6])

    def do(settings: list[str]) -> None:
        shutil.rmtree("out", ignore_errors=True)
        names = [*SECTIONS, "reward 'component'", "round "]
        assert_clear(here(*base, *settings, "--out", "out"), names)

    check(extremes(), do, cases)
