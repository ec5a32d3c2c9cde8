"""A reward in an environment of its own: a real venv, real processes, and what becomes of them."""

import fcntl
import inspect
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.remote import RemotePlugin, is_environment
from orwcfm_core.remote_process import Process
from orwcfm_core.reward import Reward, score
from pydantic import ValidationError

PLUGIN = """
import fcntl, sys, time
from typing import Literal
from orwcfm_core.plugin import ComponentConfig, Example, RewardSpec, hookimpl
from pydantic import Field, field_validator

print("a light module that prints")

class Config(ComponentConfig):
    scale: float = Field(2.0, gt=0, description="Factor.")
    mode: Literal["exp", "log"] = Field("exp", description="Function.")
    labels: tuple[str, ...] = Field((), description="Names.")
    weights: str | None = Field(None, description="A file.")
    seen: str = Field(default_factory=lambda: ",".join({"torch", "numpy"} & set(sys.modules)), description="A probe.")

    @field_validator("scale")
    @classmethod
    def odd(cls, scale):
        if scale == 13:
            raise ValueError("not {this} one")
        return scale

    @field_validator("weights")
    @classmethod
    def hold(cls, weights):
        if weights and weights.startswith("hold "):
            with open(weights.removeprefix("hold "), "w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                time.sleep(1000)
        return weights

@hookimpl
def orwcfm_rewards():
    return [RewardSpec(
        name=name, summary="A toy.", config=Config, factory=f"toy_reward:{name.title()}", value_range=(0.0, None),
        references=("One", "Two"), differentiable=True, example=Example(shape=(2,), options={"scale": 3.0}),
        deterministic=name != "dice",
    ) for name in ("toy", "bare", "dice")]
"""

REWARD = """
import os, signal, subprocess, sys, time
from pathlib import Path
import torch
from orwcfm_core.errors import UserError
from orwcfm_core.reward import Reward, Scores

class Toy(Reward):
    def __init__(self, config):
        if config.weights:
            raise FileNotFoundError(f"no {config.weights}")
        self.config = config

    def score(self, images, prompts):
        do, _, what = prompts[0].partition(" ")
        if do in ("die", "raise", "quit", "blame", "hang", "once", "pid", "mask", "print", "number", "draw", "start"):
            return getattr(self, do)(images, what)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return Scores(images.flatten(1).mul(self.config.scale).exp().mean(1) + lengths)

    def features(self, images):
        return images.flatten(1).cos()

    def describe(self):
        return f"toy of scale {self.config.scale}"

    def die(self, images, code):
        print("last words")
        os._exit(int(code))

    def raise_(self, images, what):
        raise ValueError(what)

    def quit(self, images, what):
        sys.exit(what)

    def blame(self, images, what):
        raise UserError(what)

    def hang(self, images, seconds):
        time.sleep(float(seconds))
        return Scores(images[:, 0])

    def once(self, images, file):
        if not Path(file).exists():
            Path(file).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Scores(images[:, 0])

    def pid(self, images, what):
        return Scores(torch.full((len(images),), os.getpid(), dtype=torch.float64))

    def mask(self, images, what):
        return Scores(images[:, 0], images[:, 0] > 0)

    def print(self, images, what):
        os.write(1, b'{"result": null}' + bytes(10) * 100_000)
        print("to stdout", "to stderr", sep=chr(10), file=sys.stderr)
        return Scores(images[:, 0])

    def number(self, images, what):
        return float(what)

    def draw(self, images, what):
        return Scores(torch.randn(len(images)))

    def start(self, images, what):
        child = subprocess.Popen(["sleep", "1000"])
        return Scores(torch.full((len(images),), child.pid, dtype=torch.float64))

setattr(Toy, "raise", Toy.raise_)

class Bare(Toy):
    features = Reward.features

class Dice(Toy):
    pass
"""


def environment(folder: Path) -> Path:
    """A new environment with this one's third-party packages and nothing of the project's; its site-packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if "orwcfm" not in package.name:
            (site / package.name).symlink_to(package)
    return site


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> Path:
    """An environment with the core and the reward `toy`."""
    folder = tmp_path_factory.mktemp("remote") / "env with a space"
    site = environment(folder)
    (site / "core.pth").write_text(str(Path(inspect.getfile(Reward)).parents[1]))
    (site / "toy_plugin.py").write_text(PLUGIN)
    (site / "toy_reward.py").write_text(REWARD)
    info = site / "orwcfm_reward_toy-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orwcfm-reward-toy\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[orwcfm.rewards]\ntoy = toy_plugin\nbare = toy_plugin\ndice = toy_plugin\n")
    return folder


@pytest.fixture(scope="module")
def plugin(env) -> RemotePlugin:
    return RemotePlugin("toy", str(env))


@pytest.fixture(scope="module")
def reward(plugin) -> Reward:
    """One reward for all tests: each finds it working, whatever the one before did to it."""
    built = plugin.build(plugin.spec.config(), Reward)
    yield built
    built.close()


def local(env: Path, module: str):
    """A module of the other environment, in this process."""
    file = next(env.glob(f"lib/python*/site-packages/{module}.py"))
    spec = spec_from_file_location(module, file)
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def points(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(count))


def pid(reward: Reward) -> int:
    return int(reward.score(points(1), ["pid"]).values)


def test_the_spec_comes_from_there(env, plugin):
    spec, theirs = plugin.spec, local(env, "toy_plugin").orwcfm_rewards()[0]
    for field in ("name", "summary", "accepts", "value_range", "references", "api", "reads_prompts", "example"):
        assert getattr(spec, field) == getattr(theirs, field)
    assert not spec.differentiable
    assert (plugin.kind, plugin.name, plugin.dist, plugin.version) == ("reward", "toy", "orwcfm-reward-toy", "1.5")
    assert str(plugin) == f"reward 'toy' of orwcfm-reward-toy 1.5 in {env}"
    fields = spec.config.model_fields
    assert list(fields) == ["scale", "mode", "labels", "weights", "seen"]
    assert fields["scale"].description == "Factor."
    assert spec.config.model_json_schema()["properties"]["scale"]["exclusiveMinimum"] == 0


def test_options_are_completed_there_without_torch(plugin):
    config = plugin.spec.config.model_validate({"scale": "3", "labels": ["ä", "b"]})
    options = {"scale": 3.0, "mode": "exp", "labels": ["ä", "b"], "seen": ""}
    assert config.model_dump(mode="json", exclude_none=True) == options
    assert plugin.spec.config.model_validate(options) == config


@pytest.mark.parametrize(
    "options",
    [{"scael": 1}, {"scale": -1}, {"scale": 13}, {"mode": "sin", "labels": [1]}, {"weights": ["x"]}],
    ids=lambda options: next(iter(options)),
)
def test_wrong_options_read_as_they_do_here(env, plugin, options):
    def errors(model):
        with pytest.raises(ValidationError) as caught:
            model.model_validate(options)
        return [{key: error[key] for key in ("loc", "type", "msg", "input")} for error in caught.value.errors()]

    assert errors(plugin.spec.config) == errors(local(env, "toy_plugin").Config)


@pytest.mark.parametrize(
    "images",
    [
        points(1),
        points(5).double(),
        points(4).bfloat16(),
        torch.rand(2, 3, 300, 200).to(memory_format=torch.channels_last),
        torch.rand(7, 5).T,
        torch.rand(5, 3, 9, 9)[::2, :, 1:],
    ],
    ids=["one", "double", "bfloat16", "large", "turned", "cut"],
)
@pytest.mark.parametrize("prompt", ["", "a boot, 日本語 \ud800"], ids=["empty", "unicode"])
def test_scores_and_features_are_those_of_this_process(env, reward, images, prompt):
    here = local(env, "toy_reward").Toy(local(env, "toy_plugin").Config())
    prompts, kept = [prompt, "bag", "a", "b", "c"][: len(images)], images.clone()
    state = torch.get_rng_state()
    there, there_features = reward.score(images, prompts), reward.features(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    for mine, theirs in [(here.score(images, prompts).values, there.values), (here.features(images), there_features)]:
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert there.valid is None


def test_whether_there_are_features_is_known_from_there(env, reward):
    assert reward.has_features
    plugin = RemotePlugin("bare", str(env))
    bare = plugin.build(plugin.spec.config(), Reward)
    assert not bare.has_features
    assert bare.features(points()) is None
    bare.close()


def test_results_stay_when_the_memory_is_used_again(reward):
    before = reward.features(points(3))
    reward.features(points(30))
    assert torch.equal(before, points(3).cos())


def test_a_mask_comes_back(reward):
    values, valid = reward.score(points(9), ["mask"] * 9)
    assert torch.equal(values, points(9)[:, 0])
    assert torch.equal(valid, values > 0)


def test_moves_and_describes(env, reward):
    assert reward.to(torch.device("cpu")).describe() == f"toy of scale 2.0, in {env}"
    with pytest.raises(UserError, match=f"reward 'toy': in {env}: "):
        reward.to(torch.device("cuda:99"))
    assert pid(reward) > 0


def test_what_it_prints_does_no_harm(reward):
    before = pid(reward)
    assert torch.equal(reward.score(points(), ["print"] * 3).values, points()[:, 0])
    assert pid(reward) == before


def test_an_exception_ends_the_request_and_nothing_else(env, reward):
    before = pid(reward)
    for do, error, message in [
        ("raise broken", RunError, "ValueError: broken"),
        ("quit now", RunError, "SystemExit: now"),
        ("blame the user", UserError, "the user"),
        ("number 3", RunError, "returned a float, expected a tensor"),
    ]:
        with pytest.raises(error) as caught:
            score("toy", reward, points(), [do] * 3)
        assert str(caught.value) == f"reward 'toy': in {env}: {message}"
    assert pid(reward) == before


def test_an_exception_while_building_blames_the_plugin(env, plugin):
    with pytest.raises(UserError) as caught:
        plugin.build(plugin.spec.config(weights="w.safetensors"), Reward)
    blamed = "reward 'toy' of orwcfm-reward-toy 1.5: FileNotFoundError: no w.safetensors"
    assert str(caught.value) == f"in {env}: {blamed}"


def test_is_started_anew_when_killed_and_ends_with_its_owner(plugin, reward, caplog):
    expected = reward.score(points(), ["a"] * 3).values
    own = plugin.build(plugin.spec.config(), Reward)
    first = pid(own)
    os.kill(first, signal.SIGKILL)
    assert torch.equal(own.score(points(), ["a"] * 3).values, expected)
    assert re.search("toy.*env.*started anew: killed by SIGKILL", caplog.text)
    second = pid(own)
    assert first != second
    del own
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_random_numbers_follow_from_those_of_this_process(env):
    dice = RemotePlugin("dice", str(env))
    own = dice.build(dice.spec.config(), Reward)

    def drawn() -> torch.Tensor:
        return own.score(points(), ["draw"] * 3).values

    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = drawn(), drawn()
        torch.manual_seed(3)
        assert torch.equal(drawn(), first)
        os.kill(pid(own), signal.SIGKILL)
        # The state after `first` and the request for the number of the process.
        torch.manual_seed(3)
        drawn()
        assert torch.equal(drawn(), second)
    assert not torch.equal(first, second)
    own.close()


@pytest.mark.parametrize("end", ["gently", "killed"])
def test_what_the_reward_started_ends_with_it(plugin, end):
    own = plugin.build(plugin.spec.config(), Reward)
    child = int(own.score(points(1), ["start"]).values)
    if end == "killed":
        os.kill(pid(own), signal.SIGKILL)
        own.score(points(), ["a"] * 3)
    else:
        own.close()
    assert not lives(child)
    own.close()


def test_what_the_reward_started_ends_with_a_parent_that_is_killed(env):
    code = (
        "import sys, torch\n"
        "from orwcfm_core.remote import RemotePlugin\n"
        "from orwcfm_core.reward import Reward\n"
        f"plugin = RemotePlugin('toy', {str(env)!r})\n"
        "reward = plugin.build(plugin.spec.config(), Reward)\n"
        "print(int(reward.score(torch.zeros(1, 2), ['start']).values), flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert lives(child)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def lives(number: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True)
    return found.stdout.strip() != "" and not found.stdout.startswith("Z")


def test_killed_during_a_request_once(reward, tmp_path, caplog):
    values = reward.score(points(), [f"once {tmp_path / 'file'}"] * 3).values
    assert torch.equal(values, points()[:, 0])
    assert "killed by SIGKILL" in caplog.text


def test_dies_each_time(env, reward):
    with pytest.raises(RunError) as caught:
        score("toy", reward, points(), ["die 3"] * 3)
    whose = f"reward 'toy': the process of reward 'toy' in {env}"
    assert str(caught.value) == f"{whose} failed twice: ended with exit code 3 (its last line: last words)"


def test_hangs(reward, monkeypatch):
    first = pid(reward)
    ask = Process.ask

    def hasty(process, seconds, op, **request):
        return ask(process, 0.5 if op == "score" else seconds, op, **request)

    monkeypatch.setattr(Process, "ask", hasty)
    with pytest.raises(RunError, match=r"toy.*env.*failed twice: no answer within 0\.5 s"):
        reward.score(points(), ["hang 1000"] * 3)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_only_batches_have_the_time_limit_of_a_batch(env, monkeypatch):
    asked, ask = {}, Process.ask

    def noted(process, seconds, op, **request):
        asked[op] = seconds
        return ask(process, seconds, op, **request)

    monkeypatch.setattr(Process, "ask", noted)
    plugin = RemotePlugin("toy", str(env), timeout=5)
    reward = plugin.build(plugin.spec.config(), Reward)
    reward.to(torch.device("cpu")).describe()
    reward.score(points(), ["a"] * 3)
    reward.close()
    assert asked["score"] == 5
    assert {asked[op] for op in ("build", "to", "describe")} == {600}


def test_an_interrupted_request_is_not_answered_later(reward):
    expected = reward.score(points(), ["a"] * 3).values

    def interrupt(number, frame):
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            reward.score(points(), ["hang 1"] * 3)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert torch.equal(reward.score(points(), ["a"] * 3).values, expected)


def test_ends_with_a_parent_that_is_killed(env, tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    code = (
        "from orwcfm_core.remote import RemotePlugin\n"
        f"RemotePlugin('toy', {str(env)!r}).spec.config(weights='hold {lock}')\n"
    )

    def held() -> bool:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def wait(wanted: bool, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while held() != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait(True, 60)
    finally:
        parent.kill()
        parent.wait()
    wait(False, 5)


def test_unknown_there(env):
    plugin = RemotePlugin("toyy", str(env))
    with pytest.raises(UserError) as caught:
        _ = plugin.spec
    assert str(caught.value) == f"in {env}: unknown reward 'toyy', did you mean 'toy'?"
    assert str(plugin) == f"reward 'toyy' in {env}"


def test_environments_that_cannot_serve(tmp_path, monkeypatch, plugin):
    site = environment(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"

    def failure(where: Path) -> str:
        with pytest.raises(UserError) as caught:
            _ = RemotePlugin("toy", str(where)).spec
        return str(caught.value)

    start = f"cannot start reward 'toy' in {tmp_path / 'env'}: No module named orwcfm_core"
    assert failure(tmp_path / "env").startswith(f"{start}; install it there")
    assert failure(tmp_path / "env").endswith(f": {python} -m pip install orwcfm-core")
    assert failure(python).startswith(f"cannot start reward 'toy' in {python}: No module named orwcfm_core; ")
    (site / "orwcfm_core").mkdir()
    (site / "orwcfm_core" / "__init__.py").touch()
    assert failure(tmp_path / "env").startswith(f"{start}.worker; the orwcfm-core there is too old")
    assert "no Python interpreter at" in failure(tmp_path / "nowhere")
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'Unknown option: -P' >&2\necho 'Try `python -h' >&2\nexit 2\n")
    old.chmod(0o755)
    assert failure(old) == f"cannot start reward 'toy' in {old}: its Python is older than 3.11, which orwcfm-core needs"
    monkeypatch.setattr("orwcfm_core.remote_process.PROTOCOL", 3)
    assert "has protocol 2, this one has 3; " in failure(plugin.environment.where)


def test_an_environment_is_told_from_a_distribution(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orwcfm-reward-toy").mkdir()
    (tmp_path / "venv").symlink_to(env)
    assert is_environment("/path/to/venv")
    assert is_environment("~/venv")
    assert is_environment("venv")
    assert not is_environment("orwcfm-reward-toy")
    assert not is_environment("orwcfm-reward-other")
    assert RemotePlugin("toy", "venv").python == str(tmp_path / "venv")


def test_starts_without_torch():
    code = "import sys, orwcfm_core.remote; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
