"""Every mistake ends in one clear line and the right exit code, and loses nothing."""

import pytest
from commandline import SMALL

GMM = ("run", "--backbone", "gmm", "--reward", "component")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "--reward", "clip-scor"), "did you mean 'clip-score'"),
        (("run", "--backbone", "nothing"), "unknown backbone 'nothing', installed: gmm, sd3, torchcfm, unet"),
        (
            ("run", "--backbone", "torchcfm"),
            "backbone.weights: required, a folder that 'python -m orwcfm_backbone_torchcfm",
        ),
        (("run", "--reg", "w3"), "did you mean 'w2'"),
        (("run", "--weighting", "expp"), "did you mean 'exp'"),
        (("run", "--sampler", "rk5"), "did you mean 'rk4'"),
        (("run", "--set", "reward.promt=x"), "reward.promt: unknown option of 'clip-score', did you mean 'prompt'?"),
        (("run", "--set", "train.round=3"), "train.round: unknown option of 'orw-cfm', did you mean 'rounds'?"),
        (("run", "--set", "trian.rounds=3"), "trian: unknown section, did you mean 'train'?"),
        (("run", "--set", "rounds=3"), "expected SECTION.OPTION=VALUE"),
        (("run", "--set", "reward.prompt=[1"), "must be JSON"),
        (("run", "--alpha", "-1"), "reg.alpha: input should be greater than or equal to 0, got '-1'"),
        (("run", "--alpha", "a lot"), "reg.alpha: input should be a valid number"),
        (("run", "--alpha", "nan"), "reg.alpha"),
        (("run", "--alpha", "0.1", "--reg", "none"), "reg.alpha: unknown option of 'none', which has no options"),
        (("run", "--tau", "1", "--weighting", "top-k"), "weighting.tau: unknown option of 'top-k'"),
        (("run", "--set", "train.samples=10", "--set", "train.group=4"), "train.group: 10 samples"),
        (("run", "--prompt", "a bag", "--prompt", "a coat"), "is unconditional here"),
        (("run", "--device", "quantum"), "train.device: 'quantum' cannot be used here"),
        (
            ("run", "--set", "backbone.weights=gone.safetensors"),
            "backbone.weights: expected fashion, mnist or the path",
        ),
        (("run", "--reward", "none"), "unknown reward 'none'"),
        (("run", "--set", 'reward.prompt=[1, "a bag"]'), "expected a string or a list of strings"),
        (("run", "--prompt", "an elephant"), "does not know 'elephant'"),
        (("run", "--set", "reward.model=ViT-B-23"), "did you mean ViT-B-32"),
        (("run", "--reward", "component"), "'component' scores points, but backbone 'unet' produces images"),
        (("run", "--config", "gone.toml"), "cannot read configuration gone.toml"),
        (("run", "--nonsense"), "No such option"),
        (("run", "--device", "meta"), "train.device: 'meta' cannot be used here"),
        (("run", "--out", "x" * 300), "run folder xxx"),
        (("run", "--backbone", "gmm", "--out", "/dev/null/run"), "/dev/null is not a folder"),
        (("run", "--backbone", "gmm", "--trainer", "rwr", "--set", "train.data=gone"), "expected a folder of pictures"),
        (("run", "--trainer", "flow-grpo", "--set", "weighting.fade=1"), "'group-advantage', known: name, schedule"),
        (("run", "--set", "heldout.name=none", "--set", "heldout.model=mnist"), "there is no held-out judge here"),
        (("run", "--set", "train.samples=1000000000000"), "train.samples: input should be less than or equal"),
        (("sample", "gone", "--seed", "99999999999999999999999"), "is not in the range"),
        (("resume", "gone"), "gone is not a run folder"),
        (("sample", "gone"), "gone is not a run folder"),
        (("report", "gone"), "gone is not a run folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(orwcfm, tmp_path, args, said):
    before = sorted(tmp_path.iterdir())
    done = orwcfm(*args, code=2)
    assert said.lower() in done.stderr.lower()
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
    assert len(errors) == 1
    assert done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_all_mistakes_come_at_once(orwcfm):
    stderr = orwcfm("run", "--alpha", "-1", "--set", "train.rounds=0", "--reward", "nope", code=2).stderr
    assert [part in stderr for part in ("reg.alpha", "train.rounds", "unknown reward 'nope'")] == [True] * 3


def test_a_run_folder_is_never_overwritten(orwcfm, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    for dry in ((), ("--dry-run",)):
        assert "run exists already; choose another --out\n" in orwcfm(*GMM, "--out", "run", *dry, code=2).stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_files_that_are_not_weights_are_refused(orwcfm, tmp_path):
    (tmp_path / "evil.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
    assert "not a file of this U-Net" in orwcfm("run", "--set", "backbone.weights=evil.safetensors", code=2).stderr


def test_a_judge_that_is_trained_on_is_said(orwcfm, tmp_path):
    done = orwcfm(*GMM, "--eval-reward", "component", "--rounds", 1, "--out", "run")
    assert "warning: heldout.name: a reward that is trained on judges nothing: component" in done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "it is trained on with the same options" in page
    assert "never trained on" not in page


def test_mistakes_around_a_run_that_exists(orwcfm, tmp_path):
    orwcfm(*GMM, "--rounds", 1, "--out", "run")
    run = tmp_path / "run"
    assert "expected a PNG file, got a folder" in orwcfm("sample", run, "--out", run / "samples", code=2).stderr
    assert "or go on with: orwcfm resume" in orwcfm(*GMM, "--out", run, code=2).stderr
    assert "is unconditional here" in orwcfm("sample", run, "--prompt", "a bag", code=2).stderr
    settings = (run / "run.toml").read_text()
    (run / "run.toml").write_text(settings.replace("rounds = 1", "rounds = 'many'"))
    assert "train.rounds" in orwcfm("resume", run, code=2).stderr
    (run / "run.toml").write_text(settings.replace('prompt = [\n    "",\n]', "prompt = 3"))
    assert "reward.prompt: expected a string" in orwcfm("resume", run, code=2).stderr
    orwcfm("report", run)
    (run / "run.toml").write_bytes(b"\xff\xfe")
    assert "run.toml" in orwcfm("report", run, code=2).stderr
    (run / "run.toml").write_text(settings)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    assert "metrics.jsonl" in orwcfm("resume", run, code=1).stderr


def test_a_damaged_checkpoint_gives_way_to_the_one_before(orwcfm, tmp_path):
    orwcfm(*GMM, "--rounds", 4, "--set", "train.checkpoint_every=2", "--out", "run")
    newest = tmp_path / "run" / "checkpoints" / "round_0004" / "policy.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    assert "from round 2" in orwcfm("resume", "run").stderr
    for file in (tmp_path / "run" / "checkpoints").glob("*/policy.safetensors"):
        file.write_bytes(b"no checkpoint")
    assert "no intact checkpoint" in orwcfm("resume", "run", code=2).stderr


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("bad-shape", "return Scores(torch.zeros(3, 2))", "returned shape (3, 2), expected one score per image"),
        ("bad-nan", "return Scores(images.flatten(1).mean(1) * float('nan'))", "returned NaN or infinity for 16 of 16"),
        ("bad-type", "return [1.0] * len(images)", "returned a list"),
        ("bad-luck", "raise ValueError('no\\nluck')", "ValueError: no luck"),
        ("bad-exit", "import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_reward_that_misbehaves_ends_the_run_with_its_name(orwcfm, plugin, tmp_path, name, body, said):
    done = orwcfm("run", "--reward", name, "--set", "heldout.name=none", *SMALL, code=1, **plugin(name, body))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"reward '{name}'" in errors[0]
    assert said.replace("16 of 16", "") in errors[0]


def test_a_broken_plugin_harms_no_other(orwcfm, plugin, tmp_path):
    env = plugin("broken", "pass")
    (tmp_path / "site-broken" / "broken_plugin.py").write_text("import sys; sys.exit('gone')")
    listed = orwcfm("plugins", "list", **env).stdout
    assert "broken: reward 'broken' of broken 1.0: SystemExit: gone" in listed
    assert "clip-score" in listed
    assert "SystemExit: gone" in orwcfm("run", "--reward", "broken", code=2, **env).stderr


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("def features(self, images): raise ValueError('no luck')", "ValueError: no luck"),
        ("def features(self, images): return images.flatten(1)[:3]", "its features have shape (3, 784)"),
        ("def to(self, device): raise KeyError('device')", "KeyError: 'device'"),
        ("def features(self, images): open('/gone')", "FileNotFoundError: [Errno 2] No such file"),
        ("def describe(self): raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_whatever_else_a_plugin_raises_has_its_name(orwcfm, plugin, tmp_path, method, said):
    env = plugin("odd", f"return Scores(images.flatten(1).mean(1))\n    {method}")
    done = orwcfm("run", "--reward", "odd", "--set", "heldout.name=none", *SMALL, code=1, **env)
    assert "reward 'odd'" in done.stderr
    assert said in done.stderr


def test_what_a_backbone_says_of_itself_wrongly_is_one_line(orwcfm, plugin, tmp_path):
    env = plugin("eager", "return Scores(images.flatten(1).mean(1))")
    light = tmp_path / "site-eager" / "eager_plugin.py"
    text = light.read_text()
    assert text.count("RewardSpec(") == 1
    light.write_text(text.replace("RewardSpec(", "RewardSpec(ignores_prompt=lambda config: config.nothing, "))
    done = orwcfm("run", "--reward", "eager", "--prompt", "a bag", code=2, **env)
    assert "reward 'eager' of eager 1.0: AttributeError" in done.stderr


CALLBACK = """
from orwcfm_core.plugin import CallbackSpec, ComponentConfig, hookimpl

@hookimpl
def orwcfm_callbacks():
    return [CallbackSpec(name="down", summary="A service.", config=ComponentConfig, factory="down_plugin:Down")]

class Down:
    def __init__(self, config):
        pass

    @hookimpl
    def orwcfm_on_run_start(self, run, reference):
        raise ValueError("the service is down")
"""


def test_a_callback_that_fails_takes_no_result_away(orwcfm, plugin, tmp_path):
    env = plugin("down", "pass")
    site = tmp_path / "site-down"
    (site / "down_plugin.py").write_text(CALLBACK)
    points = next(site.glob("*.dist-info")) / "entry_points.txt"
    points.write_text(points.read_text().replace("orwcfm.rewards", "orwcfm.callbacks"))
    orwcfm(*GMM, "--rounds", 1, "--out", "run")
    result = (tmp_path / "run" / "final.json").read_bytes()
    failed = orwcfm("resume", "run", "--callback", "down", code=1, **env).stderr
    assert "the service is down" in failed
    assert "without callbacks: orwcfm resume run --callback none" in failed
    assert (tmp_path / "run" / "final.json").read_bytes() == result
    # A plan builds callbacks, too.
    text = (site / "down_plugin.py").read_text()
    (site / "down_plugin.py").write_text(text.replace("        pass\n", "        raise ValueError('no account')\n"))
    assert "no account" in orwcfm(*GMM, "--rounds", 1, "--dry-run", "--callback", "down", code=2, **env).stderr
    (site / "down_plugin.py").write_text(text)
    # Where nothing can be saved, the callback's own words are not lost.
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").mkdir()
    failed = orwcfm("resume", "run", code=1, **env).stderr
    assert "the service is down" in failed
    assert "could not be saved" in failed


def test_a_plugin_that_fails_in_the_midst_of_a_run_is_named_and_callbacks_are_told(orwcfm, plugin, tmp_path):
    body = "return Scores(images.flatten(1).mean(1))\n    calls = 0\n"
    body += "    def features(self, images):\n        Reward.calls += 1\n"
    body += "        if Reward.calls > 4: raise ValueError('late')\n        return images.flatten(1)"
    env = plugin("late", body)
    args = ("--set", "heldout.name=none", "--callback", "tensorboard", "--rounds", 9, "--set", "train.samples=16")
    done = orwcfm("run", "--reward", "late", *args, "--set", "sampler.steps=2", "--out", "run", code=1, **env)
    assert "error: reward 'late' of late 1.0: ValueError: late" in done.stderr
    events = next((tmp_path / "run" / "tensorboard").iterdir()).read_bytes()
    assert b"failed" in events
