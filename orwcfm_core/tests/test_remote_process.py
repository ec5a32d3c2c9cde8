"""The process of a reward in an environment of its own: how it ends, is started anew, and what goes with it."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from orwcfm_core.errors import RunError
from orwcfm_core.remote import RemotePlugin
from orwcfm_core.remote_process import Process
from orwcfm_core.reward import Reward, score
from remote_toy import pid, points


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
