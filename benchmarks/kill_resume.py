"""Kills a run again and again, goes on with it, and compares the end with a run that was left alone.

    python benchmarks/kill_resume.py [--kills 100] [--seed 0] [--variant plain|several]

What is compared, bit for bit: weights, sampling policy, optimiser and generator states, and metrics.jsonl, but for the
seconds. Rounds and moments are random; every other time the process is killed while it writes a checkpoint, which is
seen by the temporary folder. Every process is a fork of this one, which has imported all that a run needs: a true
process with a true SIGKILL, without the seconds that imports take.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orwcfm_backbone_gmm.backbone
import orwcfm_backbone_gmm.component
import orwcfm_reg_w2.regularizer
import orwcfm_reward_jpeg.reward
import torch
from orwcfm_cli.main import main as orwcfm
from orwcfm_cli.runner import resume
from orwcfm_core.checkpoint import newest_checkpoint
from orwcfm_core.testing import FakeDistribution
from safetensors.torch import load_file

__all__ = ["main"]

# Imported before anything is forked.
_NEEDED = (orwcfm_backbone_gmm, orwcfm_reg_w2, orwcfm_reward_jpeg, resume)

# Wide enough that writing a checkpoint takes a part of the time that can be met.
GMM = (
    *("--backbone", "gmm", "--reg", "w2", "--set", "backbone.width=384", "--set", "train.checkpoint_every=1"),
    *("--set", "train.samples=32", "--set", "train.eval_samples=64"),
)
VARIANTS: dict[str, Sequence[str]] = {
    "plain": ("--reward", "component"),
    # Windows of scores, a reward that fails now and then, and an average of its own for each prompt's advantages.
    "several": (
        *("--reward", "component:0.7", "--reward", "moody:0.3", "--weighting", "advantage"),
        *("--set", "reward.component.normalise=z-score", "--set", "reward.moody.normalise=z-score"),
        *("--set", "reward.component.window=100", "--set", "reward.moody.on_error=drop"),
        # Five rounds in a row without a valid score are luck here, not an end.
        *("--set", "train.max_skipped=1000"),
    ),
}
# What it does depends on the samples alone: a count of calls would not survive the process.
MOODY = """
import torch
from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl
from orwcfm_core.reward import Reward

class Moody(Reward):
    def __init__(self, config):
        pass

    def score(self, images, prompts):
        r = images.flatten(1).mean(1)
        if int(float(r.double().sum()) * 1e9) % 4 == 0:
            raise ValueError("bad mood")
        return torch.where(r > r.quantile(0.9), torch.nan, r)

@hookimpl
def orwcfm_rewards():
    return [RewardSpec(name="moody", summary="Fails.", config=ComponentConfig, factory="moody_plugin:Moody")]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run again and again, and compare how it ends.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=list(VARIANTS), default="plain")
    parser.add_argument("--rounds", type=int, default=150)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # In memory where that can be had: flushing hundreds of checkpoints to a disk would take most of the time.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        os.chdir(folder)
        moody = FakeDistribution(Path("site").absolute(), "moody", {"reward": {"moody": "moody_plugin"}}, {})
        (moody.folder / "moody_plugin.py").write_text(MOODY)
        with moody:
            found = compare([*GMM, *VARIANTS[asked.variant], "--rounds", str(asked.rounds)], asked.kills, asked.seed)
    print(json.dumps(found))
    sys.exit(bool(found["different"]))


def compare(args: Sequence[str], kills: int, seed: int) -> dict[str, Any]:
    """Do a run at once and another with kills; say what is different, and what was met on the way."""
    args = ["run", *args]
    began = time.perf_counter()
    if (code := ended(fork([*args, "--out", "whole"]))) != 0:
        raise SystemExit(f"the run that nobody disturbs ended with {code}: {Path('log').read_text()[-2000:]}")
    chance, killed = random.Random(seed), Path("killed")
    command, moments = [*args, "--out", "killed"], list[str]()
    # None so late that the run could end before it is killed.
    last = progress(Path("whole")) - 50
    for number, round_number in enumerate(sorted(chance.choices(range(last), k=kills))):
        process = fork(command)
        wait_until(process, partial(reached, killed, round_number))
        if number % 2:
            wait_until(process, lambda: any(killed.glob("checkpoints/.round_*[0-9]")))
        # Long enough for any part of a round, or, where that round is done already, of the start.
        time.sleep(chance.uniform(0, 0.003 if number % 2 else 0.02 if progress(killed) <= round_number else 0.4))
        os.kill(process, signal.SIGKILL)
        if (code := ended(process)) != -signal.SIGKILL:
            raise SystemExit(f"a run ended with {code} before it was killed: {Path('log').read_text()[-2000:]}")
        moments.append(f"after round {progress(killed)}, {[path.name for path in leftovers(killed)]}")
        # Killed before it wrote down what it is: only then is it a new run.
        if (killed / "run.toml").exists():
            command = ["resume", "killed"]
        else:
            shutil.rmtree(killed, ignore_errors=True)
    met = ended(fork(command))
    different = [f"exit code {met}: {Path('log').read_text()[-2000:]}"] if met else differences(Path("whole"), killed)
    different += [f"left behind: {path}" for path in leftovers(killed)]
    return {
        "kills": len(moments),
        "while_writing": sum("'.round_" in moment for moment in moments),
        "different": different,
        "invalid": sum(row["invalid"] for row in rows(killed)),
        "seconds": round(time.perf_counter() - began, 1),
        "moments": moments,
    }


def fork(args: Sequence[str]) -> int:
    """A process that does what the command line would."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["orwcfm", *args]
        orwcfm()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int) -> int:
    """How a process ended, once it has."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def wait_until(process: int, met: Callable[[], bool]) -> None:
    """Wait for something that a process does, but not beyond its end."""
    deadline = time.monotonic() + 120
    while not met() and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            raise SystemExit("the run does not get going")
        time.sleep(0.0005)


def progress(run: Path) -> int:
    """Lines of metrics."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def reached(run: Path, rounds: int) -> bool:
    return progress(run) >= rounds


def leftovers(run: Path) -> list[Path]:
    """What is half-written."""
    return [path for path in run.rglob(".*") if path.name != ".lock" and path.exists()]


def rows(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in lines]


def differences(a: Path, b: Path) -> list[str]:
    """In what two runs differ."""
    found = [f"metrics of round {i + 1}" for i, (x, y) in enumerate(zip(rows(a), rows(b), strict=False)) if x != y]
    found += [f"{len(rows(a))} rounds and {len(rows(b))}"] if len(rows(a)) != len(rows(b)) else []
    first, second = newest_checkpoint(a / "checkpoints"), newest_checkpoint(b / "checkpoints")
    for path in sorted(first.glob("*.safetensors")):
        x, y = load_file(path), load_file(second / path.name)
        found += [f"{path.name}: other tensors"] if x.keys() != y.keys() else []
        # As bits: 0 is not -0, and a number that is none equals itself.
        found += [f"{path.name}: {n}" for n in x if x[n].numpy().tobytes() != y[n].numpy().tobytes()]
    # All but the quality, which is in the manifest, and the digest of these files.
    for name in ("state.json", "../../final.json", "../../reference.json"):
        found += [name] if (first / name).read_bytes() != (second / name).read_bytes() else []
    return found


if __name__ == "__main__":
    main()
