"""Presets lie under everything else that is asked for."""

from __future__ import annotations

import tomllib

import pytest
from commandline import here


def config(*args: str) -> dict[str, dict[str, object]]:
    return tomllib.loads(here("run", *args, "--print-config", code=0).out)


def test_balanced_is_the_default() -> None:
    assert config("--preset", "balanced") == config()


def test_paper_has_the_settings_of_the_authors_code() -> None:
    found = config("--preset", "paper")
    assert found["weighting"] == {"name": "exp", "schedule": "constant", "tau": 0.5}
    assert (found["reg"]["name"], found["reg"]["alpha"]) == ("w2", 1.0)
    assert [found["sampler"][option] for option in ("name", "steps", "shift", "ema")] == ["euler", 100, 1.0, 0.0]
    assert [found["train"][option] for option in ("updates", "lr", "precision")] == [1, 2e-4, "fp32"]
    assert (found["train"]["coupling"], found["train"]["decay"]) == ("independent", 1.0)


@pytest.mark.parametrize(
    ("args", "section", "expected"),
    [
        (("--tau", "2"), "weighting", {"name": "exp", "schedule": "constant", "tau": 2.0}),
        (("--set", "sampler.steps=20"), "sampler", {"name": "euler", "steps": 20, "ema": 0.0}),
        # What the preset sets is the component's that it names.
        (("--weighting", "top-k"), "weighting", {"name": "top-k", "fraction": 0.25}),
        (("--reg", "none"), "reg", {"name": "none"}),
    ],
)
def test_flags_and_settings_lie_over_a_preset(args: tuple[str, ...], section: str, expected: dict[str, object]) -> None:
    found = config("--preset", "paper", *args)[section]
    assert {key: found[key] for key in expected} == expected
    if section in ("weighting", "reg"):
        assert "alpha" not in found


def test_a_preset_is_refused_for_another_trainer() -> None:
    done = here("run", "--preset", "paper", "--trainer", "nft", "--print-config", code=2)
    assert "--preset paper: its settings are those of trainer orw-cfm, got nft" in done.err


def test_a_file_lies_over_a_preset(tmp_path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('[train]\nupdates = 3\n[weighting]\nname = "advantage"\n')
    found = config("--preset", "paper", "--config", str(file))
    assert found["train"]["updates"] == 3
    assert found["train"]["precision"] == "fp32"
    assert found["weighting"]["name"] == "advantage"
    assert found["weighting"]["tau"] == config()["weighting"]["tau"]
