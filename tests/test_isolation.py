"""A plugin that is broken harms nobody but itself, and says what is wrong with it."""

import json
import os
import subprocess
import sys

import pytest
from commandline import ORWCFM
from orwcfm_core.testing import FakeDistribution

SPEC = """
from orwcfm_core.plugin import API, ComponentConfig, RewardSpec, hookimpl

def spec(name, **more):
    common = {{"summary": "A test.", "config": ComponentConfig, "factory": "fakes:Good"}}
    return RewardSpec(name=name, **(common | more))

@hookimpl
def {hook}:
    return {returned}
"""
FACTORIES = """
from orwcfm_core.reward import Reward, Scores

class Good(Reward):
    def __init__(self, config):
        pass

    def score(self, images, prompts):
        return Scores(images.flatten(1).mean(1))

class Wrong:
    def __init__(self, config):
        pass
"""


def returns(name, more=""):
    return SPEC.format(hook="orwcfm_rewards()", returned=f"[spec({name!r}{more})]")


BROKEN = {
    "import-error": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax-error": ("def broken(:", "SyntaxError: invalid syntax"),
    "exits": ("import sys; sys.exit('gone')", "SystemExit: gone"),
    "old-api": (
        returns("old-api", ", api=API - 2"),
        "was written for plugin API -1, this core has 1; upgrade the plugin",
    ),
    "new-api": (
        returns("new-api", ", api=API + 1"),
        "was written for plugin API 2, this core has 1; upgrade orwcfm-core",
    ),
    "other-name": (returns("another"), "returned no RewardSpec of this name (found: 'another')"),
    "misspelt-hook": (SPEC.format(hook="orwcfm_rewardz()", returned="[]"), "unknown hook 'orwcfm_rewardz'"),
    "wrong-argument": (SPEC.format(hook="orwcfm_rewards(registry)", returned="[]"), "{'registry'} are declared"),
    "no-spec": (
        SPEC.format(hook="orwcfm_rewards()", returned="[]"),
        "returned no RewardSpec of this name (found: none)",
    ),
    "no-sequence": (
        SPEC.format(hook="orwcfm_rewards()", returned="spec('no-sequence')"),
        "hook orwcfm_rewards returned a RewardSpec, expected a list of specs",
    ),
    "no-list": (SPEC.format(hook="orwcfm_rewards()", returned="None"), "returned no RewardSpec of this name"),
    "wrong-class": (returns("wrong-class", ", factory='fakes:Wrong'"), "fakes:Wrong is not a Reward"),
    "no-class": (returns("no-class", ", factory='fakes:Gone'"), "module 'fakes' has no attribute 'Gone'"),
    "other-core": (returns("other-core"), "needs orwcfm-core>=99, and 0.1.0 is installed"),
}
"""Source of the light module and what is said of it, by name."""
FINE = ("good", "noisy", "twin", "double", "jpeg-compressibility", "unet", "w2")


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> dict[str, str]:
    """An environment where everything that can be wrong is wrong at once."""
    site, second = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("second")
    sources = {name: source for name, (source, _) in BROKEN.items()}
    sources |= {"good": returns("good"), "noisy": "print('{')" + returns("noisy")}
    for name, source in sources.items():
        module = f"fake_{name.replace('-', '_')}"
        requires = ["orwcfm-core>=99"] if name == "other-core" else []
        files = {f"{module}.py": source, "fakes.py": FACTORIES}
        FakeDistribution(site, f"dist-{name}", {"reward": {name: module}}, files, requires=requires)
    for twin in ("a", "b"):
        files = {f"fake_twin_{twin}.py": returns("twin")}
        FakeDistribution(site, f"twin-{twin}", {"reward": {"twin": f"fake_twin_{twin}"}}, files)
    for folder, version in ((site, "1.0"), (second, "2.0")):
        files = {"fake_double.py": returns("double")}
        FakeDistribution(folder, "dist-double", {"reward": {"double": "fake_double"}}, files, version)
    allowed = ",".join([*BROKEN, *FINE])
    return {"PYTHONPATH": os.pathsep.join([str(site), str(second)]), "ORWCFM_PLUGINS": allowed}


def call(env, *args, code=0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([ORWCFM, *args], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def checked(env):
    """Rows of `plugins list --check`, by name and distribution."""
    rows = json.loads(call(env, "plugins", "list", "--check", "--json", code=2).stdout)
    return {(row["name"], row["dist"]): row for row in rows}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_plugin_has_a_row_with_its_cause(checked, name):
    error = checked[name, f"dist-{name}"]["error"]
    assert error.startswith(f"reward '{name}' of dist-{name} 1.0: ")
    assert BROKEN[name][1] in error
    assert "\n" not in error


def test_the_others_are_not_touched(checked):
    fine = sorted(name for name, _ in checked if checked[name, _]["error"] is None)
    assert fine == sorted([*FINE, "twin", "orw-cfm"])
    assert len(checked) == len(fine) + len(BROKEN)


def test_what_is_there_twice_is_marked(checked):
    assert checked["twin", "twin-a"]["notes"] == ["also offered by twin-b: say twin@twin-a"]
    assert checked["twin", "twin-b"]["notes"] == ["also offered by twin-a: say twin@twin-b"]
    assert checked["double", "dist-double"]["version"] == "1.0"
    (note,) = checked["double", "dist-double"]["notes"]
    assert note.startswith("installed 2 times: 1.0 in ")
    assert " is used, not 2.0 in " in note
    assert checked["good", "dist-good"]["notes"] == []


def test_every_plugin_is_one_line(env, checked):
    done = call(env, "plugins", "list", "--check", code=2)
    lines = done.stdout.splitlines()
    assert len(lines) == len(checked)
    for (name, dist), row in checked.items():
        (line,) = (line for line in lines if line.split()[1] == name and line.split()[2] == dist)
        assert ("broken: " in line) == bool(row["error"])


def test_without_check_the_light_modules_alone_are_looked_at(env):
    rows = {row["name"]: row for row in json.loads(call(env, "plugins", "list", "--json").stdout)}
    broken = {name for name, row in rows.items() if row["error"]}
    assert broken == set(BROKEN) - {"wrong-class", "no-class"}


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in ("wrong-class", "no-class")])
def test_asking_for_a_broken_plugin_is_one_line_and_exit_code_2(env, name):
    done = call(env, "run", "--reward", name, "--print-config", code=2)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    assert f"reward '{name}' of dist-{name} 1.0: " in line
    assert BROKEN[name][1] in line


def test_asking_for_a_factory_of_the_wrong_class_is_one_line_and_exit_code_2(env, tmp_path):
    env = {**env, "ORWCFM_PLUGINS": "wrong-class,gmm,w2"}
    done = call(env, "run", "--backbone", "gmm", "--reward", "wrong-class", "--out", str(tmp_path / "run"), code=2)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    assert "reward 'wrong-class' of dist-wrong-class 1.0: fakes:Wrong built a Wrong, expected a Reward" in line
    assert not (tmp_path / "run").exists()


def test_a_name_of_two_distributions_needs_one_of_them(env):
    error = call(env, "run", "--reward", "twin", "--print-config", code=2).stderr
    assert "reward 'twin' is offered by several distributions: say twin@twin-a or twin@twin-b" in error
    assert 'name = "twin@twin-b"' in call(env, "run", "--reward", "twin@twin-b", "--print-config").stdout


def test_no_plugins_leaves_the_core_alone(env):
    done = call(env, "--no-plugins", "plugins", "list", "--json")
    assert {row["dist"] for row in json.loads(done.stdout)} == {"orwcfm-core"}
    assert "reward 'good'" in done.stderr
    refused = call(env, "--no-plugins", "run", "--reward", "good", code=2).stderr
    assert "reward 'good' of dist-good 1.0 is switched off" in refused


def test_the_allow_list_takes_names_and_distributions(env):
    allowed = {**env, "ORWCFM_PLUGINS": "good, Twin_A"}
    rows = json.loads(call(allowed, "plugins", "list", "--json").stdout)
    assert {(row["name"], row["dist"]) for row in rows} == {
        ("good", "dist-good"),
        ("twin", "twin-a"),
        ("orw-cfm", "orwcfm-core"),
    }


def test_in_strict_mode_a_broken_plugin_ends_every_command(env):
    strict = {**env, "ORWCFM_STRICT_PLUGINS": "1"}
    errors = call(strict, "run", "--print-config", code=2).stderr
    assert all(f"of dist-{name} 1.0: " in errors for name in BROKEN if not name.endswith("-class"))
    call({**strict, "ORWCFM_PLUGINS": "good,noisy"}, "plugins", "list")


@pytest.mark.parametrize("file", ["METADATA", "entry_points.txt"])
def test_metadata_that_cannot_be_read_is_named_and_left_out(tmp_path, file):
    good = FakeDistribution(tmp_path, "good", {"reward": {"good": "fake_good"}}, {"fake_good.py": returns("good")})
    FakeDistribution(tmp_path, "bad", {"reward": {"bad": "fake_good"}}, {})
    (tmp_path / "bad-1.0.dist-info" / file).write_bytes(b"\xff[orwcfm.rewards]")
    done = call(good.env(), "plugins", "list", "--kind", "reward", "--json")
    names = {row["name"] for row in json.loads(done.stdout)}
    assert "good" in names
    assert "bad" not in names
    assert "bad-1.0.dist-info: UnicodeDecodeError" in done.stderr


@pytest.mark.slow
def test_the_oldest_pluggy_will_do(env, checked, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), "pluggy==1.5.0"]
    subprocess.run(pip, check=True)
    older = {**env, "PYTHONPATH": os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])}
    used = subprocess.run(
        [sys.executable, "-c", "import pluggy; print(pluggy.__version__)"],
        env={**os.environ, **older},
        capture_output=True,
        text=True,
        check=True,
    )
    assert used.stdout.strip() == "1.5.0"
    rows = json.loads(call(older, "plugins", "list", "--check", "--json", code=2).stdout)
    assert {row["name"]: row["error"] for row in rows} == {name: row["error"] for (name, _), row in checked.items()}
