"""What the README promises of the default run, at full length on the shipped models."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.trained import Trained

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
measured = importlib.import_module("shares")

FOOTWEAR = [5, 7, 9]


@pytest.mark.slow
def test_the_main_line_reaches_its_reward_and_keeps_its_diversity(orwcfm, tmp_path):
    orwcfm("run", "--reward", "clip-score", "--reg", "w2", "--alpha", "0.1", "--out", "run", timeout=1200)
    reference = json.loads((tmp_path / "run" / "reference.json").read_text())
    final = json.loads((tmp_path / "run" / "final.json").read_text())
    assert reference["heldout_class-probability"] < 0.35
    assert final["heldout_class-probability"] >= 0.98
    # Of the samples that satisfy the prompt on both sides: those that do not would only add to it.
    assert final["satisfying_diversity"] >= 0.95 * reference["satisfying_diversity"]
    assert "Healthy" in (tmp_path / "run" / "report.html").read_text()
    folder = RunFolder.open(tmp_path / "run")
    model = Trained.load(folder, folder.read_config())
    after, before = (measured.likely(model, "footwear", "fashion", 2048, reference) for reference in (False, True))
    assert after[:, FOOTWEAR].sum(1).mean() >= 0.98
    apart = measured.shares(after, FOOTWEAR) - measured.shares(before, FOOTWEAR)
    assert apart.abs().sum() / 2 <= 0.12
