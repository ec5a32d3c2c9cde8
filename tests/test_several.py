"""Several rewards, judges, regularizers and callbacks on one command line."""

import json
import signal
import subprocess
import tomllib

import pytest
from click.testing import CliRunner
from commandline import ORWCFM, SMALL
from orwcfm_backbone_unet.classes import VOCABULARY
from orwcfm_cli.main import cli
from orwcfm_reward_classifier.vocabulary import VOCABULARIES
from test_run import metrics, wait_for_rounds, without_times

TWO = ("--reward", "clip-score:0.7", "--reward", "jpeg-compressibility:0.3")
MIXTURE = ("run", "--backbone", "gmm", "--set", "train.samples=32", "--set", "train.eval_samples=64")


def configured(*args):
    result = CliRunner().invoke(cli, ["run", *args, "--print-config"])
    if result.exception is not None:
        raise result.exception
    return tomllib.loads(result.output)


def test_weights_and_alphas_come_with_the_names():
    tables = configured(*TWO, "--reg", "w2:0.1", "--reg", "kl:0.01", "--set", "reward.jpeg-compressibility.quality=50")
    assert tables["reward"]["name"] == ["clip-score", "jpeg-compressibility"]
    assert tables["reward"]["clip-score"]["weight"] == 0.7
    assert tables["reward"]["clip-score"]["model"] == "small"
    assert tables["reward"]["jpeg-compressibility"]["quality"] == 50
    assert (tables["reg"]["w2"]["alpha"], tables["reg"]["kl"]["alpha"]) == (0.1, 0.01)


def test_one_component_may_be_addressed_with_its_name_or_without():
    assert configured("--set", "reg.w2.alpha=0.2") == configured("--alpha", "0.2") == configured("--reg", "w2:0.2")


def test_options_for_all_rewards_are_said_once():
    tables = configured(*TWO, "--set", "reward.normalise=z-score", "--set", "reward.clip-score.normalise=per-prompt")
    assert [tables["reward"][name]["normalise"] for name in tables["reward"]["name"]] == ["per-prompt", "z-score"]


def test_printed_configuration_reads_back(tmp_path):
    args = (*TWO, "--reg", "w2", "--reg", "kl", "--eval-reward", "class-probability", "--eval-reward", "clip-score")
    first = CliRunner().invoke(cli, ["run", *args, "--print-config"]).output
    (tmp_path / "run.toml").write_text(first)
    again = CliRunner().invoke(cli, ["run", "--config", str(tmp_path / "run.toml"), "--print-config"]).output
    assert again == first


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--reward", "clip-score:1", "--reward", "clip-score:2"), "reward.name: 'clip-score' is named twice"),
        (("--reward", "clip-score:much"), "reward.weight: input should be a valid number"),
        (("--reg", "w2:0.5", "--alpha", "3"), "reg.alpha: is set twice"),
        ((*TWO, "--set", "reward.normalise=z-score", "--set", "reward.window=64"), "window: expected at least a round"),
        (("--eval-reward", "none", "--eval-reward", "clip-score"), "heldout.name: 'none' stands alone"),
        (("--set", "reward.timeout=3"), "reward.timeout: only a reward in an environment of its own has one"),
        (("--set", 'reward.model={"a": null}'), "null cannot be written to a configuration"),
        ((*TWO, "--set", "reward.quality=3"), "reward.quality: there are several here; say reward.clip-score or"),
        ((*TWO, "--set", "reward.jpeg-compressibility.qualty=3"), "did you mean 'quality'?"),
        (("--reg", "w2", "--reg", "kl", "--alpha", "1"), "reg.alpha: there are several here"),
        (("--reg", "none:0.1"), "reg.alpha: unknown option of 'none'"),
        ((*TWO, "--set", "reward.combine=product"), "a product needs scores of at least 0"),
        (
            ("--reward", "clip-score", "--set", "reward.combine=product", "--set", "reward.on_error=penalise(-1)"),
            "reward.clip-score.on_error: a product needs scores of at least 0, got penalise(-1)",
        ),
        ((*TWO, "--set", "reward.combine=mean"), "reward.combine: input should be 'sum', 'product' or 'minimum'"),
        ((*TWO, "--set", "reward.normalise=zscore"), "reward.clip-score.normalise: input should be 'none'"),
        (("--set", "reg.alpha.x=1"), "reg.alpha"),
        (("--set", "reward.a.b.c=1"), "expected SECTION.OPTION=VALUE"),
        (("--reward", ""), "reward.name: expected a name"),
        (("--eval-reward", "clip"), "heldout.name: unknown reward 'clip', did you mean 'clip-score'?"),
        (("--callback", "tensorbord"), "callback.name: unknown callback 'tensorbord'"),
        (("--set", "callback.project=x"), "callback.project: there is no callback here; set callback.name"),
    ],
)
def test_mistakes(orwcfm, args, said):
    assert said in orwcfm("run", *args, code=2).stderr


def test_a_run_with_several_says_how_they_compare_and_measures_each(orwcfm, tmp_path):
    args = (*TWO, "--reg", "w2:0.1", "--reg", "kl:0.01", "--eval-reward", "class-probability")
    done = orwcfm("run", *args, "--eval-reward", "jpeg-incompressibility", *SMALL, "--out", "run")
    assert "correlation of clip-score and jpeg-compressibility" in done.stderr
    reference = json.loads((tmp_path / "run" / "reference.json").read_text())
    assert {"mean", "std"} == reference["rewards"]["clip-score"].keys()
    last = metrics(tmp_path / "run")[-1]
    keys = {"reward_clip-score", "reward_jpeg-compressibility", "heldout_class-probability"}
    assert keys | {"heldout_jpeg-incompressibility"} <= last.keys()
    assert last["heldout_jpeg-incompressibility"] == pytest.approx(-last["reward_jpeg-compressibility"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Rewards on the reference" in page
    assert "reward.name" not in page


def test_a_reward_that_drowns_another_is_pointed_out(orwcfm):
    args = ("--reward", "clip-score:100", "--reward", "jpeg-compressibility", "--dry-run")
    assert "drowns" not in orwcfm("run", *args, *SMALL).stderr
    done = orwcfm("run", *args[:-1], *SMALL, "--set", "train.eval_samples=64")
    assert "warning: clip-score drowns jpeg-compressibility: set reward.normalise=z-score" in done.stderr


def test_a_command_line_replaces_components_of_a_file(tmp_path):
    first = CliRunner().invoke(cli, ["run", *TWO, "--reg", "w2:0.1", "--print-config"]).output
    (tmp_path / "run.toml").write_text(first)
    file = ("--config", str(tmp_path / "run.toml"))
    assert configured(*file, "--reg", "kl:0.5")["reg"]["alpha"] == 0.5
    assert configured(*file, "--reward", "class-probability")["reward"]["name"] == "class-probability"
    both = configured(*file, "--reward", "clip-score:0.2", "--reward", "jpeg-compressibility:0.8")["reward"]
    assert (both["clip-score"]["weight"], both["jpeg-compressibility"]["weight"]) == (0.2, 0.8)


def test_a_judge_that_reads_prompts_gets_the_one_that_the_backbone_suggests():
    tables = configured("--reward", "jpeg-compressibility", "--eval-reward", "class-probability")
    assert tables["reward"]["prompt"] == ["footwear"]


def test_labels_need_no_prompt_and_nobody_judges_by_another():
    tables = configured("--reward", "class-probability", "--set", "reward.labels=bag")
    assert (tables["reward"]["prompt"], tables["heldout"]["name"]) == ([""], "none")
    tables = configured("--reward", "class-probability", "--set", "reward.labels=bag", "--prompt", "a bag")
    assert tables["heldout"]["name"] == "clip-score"


def test_the_backbone_knows_the_words_that_its_judge_knows():
    assert {data: dict(words) for data, words in VOCABULARY.items()} == {
        data: dict(words) for data, words in VOCABULARIES.items()
    }
    assert configured("--prompt", "sweaters")["heldout"]["name"] == "class-probability"


def test_no_judge_comes_unasked_where_the_prompt_names_nothing_it_knows():
    assert configured("--reward", "jpeg-compressibility", "--prompt", "a unicorn")["heldout"]["name"] == "none"


def test_windows_of_scores_survive_a_kill(orwcfm, tmp_path):
    rewards = ("--reward", "component:2", "--reward", "jpeg-compressibility", "--set", "reward.normalise=z-score")
    args = (*MIXTURE, *rewards, "--set", "reward.window=100", "--rounds", 30, "--set", "train.checkpoint_every=3")
    orwcfm(*args, "--out", "whole")
    child = subprocess.Popen(
        [ORWCFM, *map(str, args), "--out", "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_rounds(tmp_path / "killed", 5)
    child.send_signal(signal.SIGKILL)
    child.wait()
    orwcfm("resume", "killed")
    assert without_times(metrics(tmp_path / "killed")) == without_times(metrics(tmp_path / "whole"))


CALLBACK = """
from orwcfm_core.plugin import CallbackSpec, ComponentConfig, hookimpl
from pydantic import Field

class Config(ComponentConfig):
    fail: int = Field(0, description="Round to fail in.")

@hookimpl
def orwcfm_callbacks():
    return [CallbackSpec(name="diary", summary="Writes.", config=Config, factory="diary_callback:Diary")]
"""
DIARY = """
from orwcfm_core.plugin import hookimpl

class Diary:
    def __init__(self, config):
        self.fail = config.fail

    def write(self, run, text):
        with (run.path / "diary.txt").open("a") as file:
            file.write(text + "\\n")

    @hookimpl
    def orwcfm_on_run_start(self, run, reference):
        self.write(run, f"start {run.first_round} {reference['samples']}")

    @hookimpl
    def orwcfm_on_round_end(self, run, metrics):
        if metrics["round"] == self.fail:
            raise OSError("the pen broke")
        self.write(run, f"round {metrics['round']}")

    @hookimpl
    def orwcfm_on_checkpoint(self, run, checkpoint):
        self.write(run, checkpoint.name)

    @hookimpl
    def orwcfm_on_run_end(self, run, status, result):
        self.write(run, f"{status} {sorted(result)[:1]}")
"""


@pytest.fixture
def diary(tmp_path):
    site = tmp_path / "site"
    info = site / "diary-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: diary\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[orwcfm.callbacks]\ndiary = diary_plugin\n")
    (site / "diary_plugin.py").write_text(CALLBACK)
    (site / "diary_callback.py").write_text(DIARY)
    return {"PYTHONPATH": str(site)}


CALLED = (*MIXTURE, "--reward", "component", "--callback", "diary", "--set", "train.checkpoint_every=2")


def test_a_callback_is_told_of_everything(orwcfm, tmp_path, diary):
    orwcfm(*CALLED, "--rounds", 3, "--out", "run", **diary)
    told = (tmp_path / "run" / "diary.txt").read_text().splitlines()
    assert told == [
        "start 0 64",
        "round 1",
        "round 2",
        "round_0002",
        "round 3",
        "round_0003",
        "done ['diversity']",
    ]


def test_a_callback_that_fails_ends_the_run_after_saving(orwcfm, tmp_path, diary):
    done = orwcfm(*CALLED, "--rounds", 5, "--set", "callback.fail=3", "--out", "run", code=1, **diary)
    assert "error: callback 'diary': OSError: the pen broke" in done.stderr
    assert "saved after round 3" in done.stderr
    assert (tmp_path / "run" / "diary.txt").read_text().splitlines()[-1] == "failed []"
    assert len(metrics(tmp_path / "run")) == 3
    file = tmp_path / "run" / "run.toml"
    file.write_text(file.read_text().replace("fail = 3", "fail = 0"))
    orwcfm("resume", "run", **diary)
    assert [row["round"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert "start 3 64" in (tmp_path / "run" / "diary.txt").read_text()
