"""The commands that show what is installed and whether it works."""

import json
import shlex
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from orwcfm_cli import plugin_doctor
from orwcfm_cli.main import cli
from orwcfm_cli.output import aligned, shortened
from orwcfm_cli.plugin_options import options_of
from orwcfm_core.config import SECTIONS
from orwcfm_core.plugin import ComponentConfig
from orwcfm_core.registry import Registry
from orwcfm_core.testing import FakeDistribution
from pydantic import Field

PLUGINS = [(plugin.kind, plugin.name) for plugin in Registry().plugins]
SPEC = """
from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl

@hookimpl
def orwcfm_rewards():
    return [RewardSpec(name={name!r}, summary="A test.", config=ComponentConfig, factory="factory_of_{name}:Reward")]
"""
REWARD = """
from orwcfm_core import reward
{first}

class Reward(reward.Reward):
    def __init__(self, config):
        pass

    def score(self, images, prompts):
        return reward.Scores({score})
"""
SEGFAULT = "import ctypes; ctypes.string_at(0)"
MEAN = "images.flatten(1).mean(1)"


def fake(site, name, light="", heavy="", score=MEAN, requires=()):
    """A reward whose light module and factory start with the given lines."""
    files = {
        f"{name}.py": light + SPEC.format(name=name),
        f"factory_of_{name}.py": REWARD.format(first=heavy, score=score),
    }
    return FakeDistribution(site, f"dist-{name}", {"reward": {name: name}}, files, requires=requires)


def show(*args):
    result = CliRunner().invoke(cli, ["plugins", "show", *args])
    assert result.exit_code == 0, result.exception
    return result.stdout


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_the_example_of_every_plugin_is_a_valid_command_line(kind, name):
    page = json.loads(show(kind, name, "--json"))
    command, *line = shlex.split(page["example"])
    assert command == "orwcfm"
    assert name in line
    result = CliRunner().invoke(cli, [*line, "--print-config"])
    assert result.exit_code == 0, result.exception
    assert all(f"[{section}]" in result.output for section in SECTIONS)
    options = {option["name"].partition(".")[2] for option in page["options"]}
    plugin = next(p for p in Registry().plugins if (p.kind, p.name) == (kind, name))
    assert options == set(plugin.spec.config.model_fields)


def test_show_says_all_there_is_to_a_plugin():
    text = show("rewards", "jpeg-compressibility")
    assert "Minus the size of the image as JPEG, in kB (1000 bytes).\n" in text
    assert "orwcfm-reward-jpeg 0.1.0" in text
    assert "orwcfm_reward_jpeg.reward:JpegCompressibility" in text
    assert "value range     -inf to 0\n" in text
    assert "reward.quality  integer, 1 to 100  95       JPEG quality, 1 to 100.\n" in text
    assert "arXiv:2305.13301" in text
    assert "    orwcfm run --reward jpeg-compressibility --set reward.quality=95\n" in text
    assert "\x1b" not in text


def test_show_does_not_cut_what_goes_to_a_pipe():
    assert max(map(len, show("trainer", "orw-cfm").splitlines())) > 100


def test_options_are_described_in_plain_words():
    class Config(ComponentConfig):
        whole: int = Field(3, ge=0, lt=10, description="A\n  whole number.")
        share: float = Field(gt=0, le=1)
        names: list[str] | None = Field(None, min_length=1)
        pair: tuple[int, float] = (1, 2.5)
        on: bool = True
        text: str = Field("", pattern="a+")

    rows = [(option.name, option.type, option.default, option.description) for option in options_of("reward", Config)]
    assert rows == [
        ("reward.whole", "integer, at least 0, less than 10", "3", "A whole number."),
        ("reward.share", "number, more than 0, at most 1", "required", ""),
        ("reward.names", "list (text), 1 or more of them; or unset", "unset", ""),
        ("reward.pair", "list of 2 (integer; number)", "[1, 2.5]", ""),
        ("reward.on", "true or false", "true", ""),
        ("reward.text", "text", '""', ""),
    ]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("list", "--kind", "painter"), "unknown kind 'painter', expected reward, backbone"),
        (("show", "reward", "clip-scor"), "unknown reward 'clip-scor', did you mean 'clip-score'?"),
        (("check", "reg", "w3"), "unknown regularizer 'w3'"),
        (("check", "reg", "w2", "--set", "alpha"), "--set reg.alpha: expected SECTION.OPTION=VALUE"),
        (("check", "reg", "w2", "--set", "alpha=[1"), "must be JSON"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(orwcfm, args, said):
    error = orwcfm("plugins", *args, code=2).stderr
    assert said in error
    assert sum(line.lower().startswith("error") for line in error.splitlines()) == 1


def test_list_is_aligned_and_takes_a_kind(orwcfm):
    lines = orwcfm("plugins", "list", "--kind", "regularizers").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["adaptive-w2", "kl", "none", "w2"]
    assert len({line.index("orwcfm-reg-") for line in lines}) == 1
    rows = json.loads(orwcfm("plugins", "list", "--kind", "reg", "--json").stdout)
    assert rows[-1] == {
        "kind": "regularizer",
        "name": "w2",
        "dist": "orwcfm-reg-w2",
        "version": "0.1.0",
        "summary": "Mean squared velocity difference, which bounds the Wasserstein-2 distance to the reference.",
        "error": None,
    }


def test_text_fits_a_terminal():
    assert shortened("a long summary", 8) == "a long…"
    assert shortened("a long summary", None) == "a long summary"
    assert aligned([["a", "one two three four five six"], ["bbb", ""]], 25) == [
        "a    one two three four",
        "     five six",
        "bbb",
    ]


def test_check_takes_options():
    result = CliRunner().invoke(cli, ["plugins", "check", "reg", "kl", "--set", "noise=0.5", "--json"])
    assert {row["status"] for row in json.loads(result.stdout)} == {"passed", "skipped"}
    assert result.exit_code == 0
    result = CliRunner().invoke(cli, ["plugins", "check", "regularizers", "w2", "--set", "reg.alhpa=1"])
    assert "alhpa: Extra inputs are not permitted, got '1'" in result.stdout
    assert result.exit_code == 2


def test_a_reward_in_an_environment_of_its_own_is_shown(orwcfm):
    where = sys.prefix
    page = json.loads(orwcfm("plugins", "show", "reward", f"jpeg-compressibility@{where}", "--json").stdout)
    assert page["dist"] == "orwcfm-reward-jpeg"
    assert page["declares"]["environment"] == where
    assert [option["name"] for option in page["options"]] == ["reward.quality"]
    example = f"orwcfm run --reward jpeg-compressibility@{where} --set reward.quality=95"
    assert page["example"] == example
    assert f'name = "jpeg-compressibility@{where}"' in orwcfm(*shlex.split(example)[1:], "--print-config").stdout
    error = orwcfm("plugins", "show", "reward", "jpeg@/nowhere", code=2).stderr
    assert "no Python interpreter at /nowhere" in error
    # Who scores labels needs no prompt, wherever it is, and nothing is to be judged by one.
    labels = ("--reward", f"class-probability@{where}", "--set", "reward.labels=sneaker,boot", "--print-config")
    config = orwcfm("run", *labels).stdout
    assert 'prompt = [\n    "",\n]' in config
    assert '[heldout]\nname = "none"' in config
    # Rewards alone may be elsewhere.
    assert "neither a distribution" in orwcfm("plugins", "show", "backbone", f"unet@{where}", code=2).stderr


def test_a_reward_in_an_environment_of_its_own_is_checked_there(orwcfm):
    for where in (sys.prefix, f"{sys.prefix}/bin/python"):
        error = orwcfm("plugins", "check", "reward", f"jpeg-compressibility@{where}", code=2).stderr
        there = f"check it there: {sys.prefix}/bin/orwcfm plugins check reward jpeg-compressibility, or run its tests\n"
        assert error == f"error: reward 'jpeg-compressibility' in {where}: {there}"


def test_check_prints_the_conformance_table(orwcfm, tmp_path):
    env = fake(tmp_path, "nan", score=f"{MEAN} * float('nan')", heavy="print('loud')").env()
    done = orwcfm("plugins", "check", "reward", "nan", code=2, **env)
    assert any(line.startswith("failed   ") and "NaN" in line for line in done.stdout.splitlines())
    assert "loud" not in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" skipped")


def test_doctor_tells_crashes_apart(orwcfm, tmp_path):
    site = tmp_path / "site"
    fake(site, "segfaults", light=SEGFAULT)
    fake(site, "leaves", light="import os; os._exit(0)")
    fake(site, "aborts", heavy="import os; os.abort()")
    fake(site, "heavy", light="import numpy", requires=["no-such-thing>=1", "torch<1"])
    env = fake(site, "raises", light="1 / 0").env()
    # Nothing is imported from the working directory.
    (tmp_path / "heavy.py").write_text("1 / 0")
    (tmp_path / "pluggy.py").write_text("1 / 0")
    allowed = "segfaults,leaves,aborts,heavy,raises,nobody"
    done = orwcfm("plugins", "doctor", "--json", code=2, ORWCFM_PLUGINS=allowed, ORWCFM_STRICT_PLUGINS="1", **env)
    report = json.loads(done.stdout)
    rows = {row["name"]: row for row in report["plugins"]}
    at = {name: f"reward '{name}' of dist-{name} 1.0: " for name in rows}
    assert rows["segfaults"]["error"] == f"{at['segfaults']}its light module crashed with SIGSEGV"
    assert rows["leaves"]["error"] == f"{at['leaves']}its light module ended the process with exit code 0"
    assert rows["aborts"]["error"] == f"{at['aborts']}its factory crashed with SIGABRT"
    assert rows["raises"]["error"] == f"{at['raises']}ZeroDivisionError: division by zero"
    assert rows["heavy"]["error"] is None
    assert "numpy" in rows["heavy"]["heavy"]
    assert rows["heavy"]["notes"][0] == "needs no-such-thing>=1, which is not installed"
    assert rows["heavy"]["notes"][1].startswith("needs torch<1, and ")
    assert 0 < rows["heavy"]["light_seconds"]
    assert rows["orw-cfm"]["error"] is None
    assert report["unknown_in_allow_list"] == ["nobody"]
    assert "ORWCFM_PLUGINS names 'nobody'" in done.stderr


def test_doctor_and_check_call_the_same_packages_heavy(orwcfm, tmp_path):
    # A stand-in, for not every heavy package is installed.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sklearn.py").touch()
    env = fake(tmp_path / "site", "heavy", light="import sklearn").env()
    (row, _) = json.loads(orwcfm("plugins", "doctor", "--json", ORWCFM_PLUGINS="heavy", **env).stdout)["plugins"]
    assert row["heavy"] == ["sklearn"]
    checked = json.loads(orwcfm("plugins", "check", "reward", "heavy", "--json", code=2, **env).stdout)
    (light,) = (row for row in checked if row["check"] == "light_module")
    assert "imports sklearn" in light["message"]


def test_doctor_examines_two_at_a_time_and_keeps_the_order(monkeypatch):
    both = threading.Barrier(2)

    def examined(plugin, registry, seconds):
        both.wait(timeout=60)
        # The first of each two is the later one.
        time.sleep(0.1 * (plugin % 2 == 0))
        return plugin

    monkeypatch.setattr(plugin_doctor, "examine", examined)
    registry = SimpleNamespace(plugins=range(6))
    assert list(plugin_doctor.examine_all(registry, 1)) == list(range(6))


def test_doctor_does_not_wait_for_ever(orwcfm, tmp_path):
    env = fake(tmp_path, "hangs", light="import time; time.sleep(600)").env()
    done = orwcfm("plugins", "doctor", "--seconds", "1", code=2, timeout=60, ORWCFM_PLUGINS="hangs", **env)
    (line,) = (line for line in done.stdout.splitlines() if " hangs " in line)
    assert line.endswith("broken: reward 'hangs' of dist-hangs 1.0: its light module was not done after 1 s")


def test_the_machine_is_examined(orwcfm, tmp_path):
    findings = json.loads(orwcfm("doctor", "--json", ORWCFM_PLUGINS="w2").stdout)
    topics = {finding["topic"]: finding for finding in findings}
    assert list(topics) == [
        "Python",
        "orwcfm",
        "orwcfm-core",
        "torch",
        "device",
        "torchvision",
        "plugins",
        "memory",
        "disk",
    ]
    assert topics["Python"]["text"] == ".".join(map(str, sys.version_info[:3]))
    assert topics["plugins"]["text"].startswith("2 fine, 0 broken, ")


def test_a_machine_that_is_not_fit_is_exit_code_2(orwcfm, tmp_path):
    env = fake(tmp_path, "segfaults", light=SEGFAULT).env()
    # Metadata of a torchvision that was made for another torch.
    FakeDistribution(tmp_path, "torchvision", {}, {}, version="0.1", requires=["torch==1.0"])
    done = orwcfm("doctor", code=2, ORWCFM_PLUGINS="segfaults", **env)
    lines = done.stdout.splitlines()
    assert any(line.startswith("problem  torchvision  0.1 needs torch==1.0, and ") for line in lines)
    crash = "problem  plugins      importing them crashed with SIGSEGV: orwcfm plugins doctor says which and why"
    assert crash in lines


def test_commands_are_listed(orwcfm):
    help_text = orwcfm("plugins", "--help").stdout
    assert all(f"  {command} " in help_text for command in ("list", "show", "check", "doctor"))
    assert "--no-plugins" in orwcfm("--help").stdout
