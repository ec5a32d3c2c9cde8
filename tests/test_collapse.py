"""What the README warns of, at full length on the shipped models."""

import json

import pytest


@pytest.mark.slow
def test_without_a_regularizer_coarse_samples_collapse_and_the_report_says_so(orwcfm, tmp_path):
    # Ten equal steps of Euler's, whose errors the policy learns from its own samples.
    orwcfm("run", "--weighting", "exp", "--reg", "none", "--sampler", "euler", "--out", "run", timeout=1200)
    reference = json.loads((tmp_path / "run" / "reference.json").read_text())
    final = json.loads((tmp_path / "run" / "final.json").read_text())
    assert final["satisfying_diversity"] < 0.5 * reference["satisfying_diversity"]
    assert "COLLAPSE" in (tmp_path / "run" / "report.html").read_text()
