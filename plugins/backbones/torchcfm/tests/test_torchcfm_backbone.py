"""TorchCFM's network and ours are the same, and what is none of its checkpoints is refused in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from orwcfm_backbone_torchcfm.backbone import TorchCfmBackbone
from orwcfm_backbone_torchcfm.convert import convert, main, network
from orwcfm_backbone_torchcfm.plugin import Config
from orwcfm_core.errors import UserError
from safetensors.torch import load_file, save_file


def test_velocity_is_that_of_torchcfm(folder, record, points):
    backbone = TorchCfmBackbone(Config(weights=str(folder)))
    t, x = points
    for field in (backbone.policy(), backbone.reference()):
        with torch.no_grad():
            v = field.velocity(t, x, {})
        torch.testing.assert_close(v[:, :, ::8, ::8], torch.tensor(record["velocity"]), rtol=1e-4, atol=1e-5)


def test_published_checkpoints_have_this_many_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in network(128).parameters()) == 35_746_307


def test_a_checkpoint_of_several_gpus_is_the_same(state):
    alone, several = convert(state), convert({f"module.{name}": tensor for name, tensor in state.items()})
    assert all(torch.equal(value, several.state_dict()[name]) for name, value in alone.state_dict().items())


def test_building_it_leaves_the_global_generator_alone(folder):
    before = torch.random.get_rng_state()
    TorchCfmBackbone(Config(weights=str(folder)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pictures_become_samples_again(folder):
    backbone = TorchCfmBackbone(Config(weights=str(folder)))
    x_1 = 2 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    torch.testing.assert_close(backbone.from_images(backbone.to_images(x_1)), x_1)
    grey = torch.tensor([0.0, 0.75]).view(2, 1, 1, 1).expand(2, 1, 28, 40)
    torch.testing.assert_close(backbone.from_images(grey), (2 * grey[:, :, :1, :1] - 1).expand(2, 3, 32, 32))


class Runs:
    """Pickled, it is a call when it is read."""

    def __reduce__(self):
        return print, ("read",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged, or holds more"),
        (b"hello world", "damaged, or holds more"),
        (b"error: no access", "damaged, or holds more"),
        ({"ema_model": Runs()}, "damaged, or holds more"),
        ({"net_model": {}}, "no ema_model"),
        ({"ema_model": {"step": 1}}, "no ema_model"),
        ({"ema_model": {1: torch.zeros(2)}}, "no ema_model"),
        ({"ema_model": {"input_blocks.0.0.weight": torch.zeros(20, 3, 3, 3)}}, "multiple of 32 channels"),
        ({"ema_model": {"input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3)}}, "Missing key"),
        ({"ema_model": {"input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3), "a.qkv.bias": torch.zeros(())}}, "heads"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(content, reason, tmp_path, capsys):
    path = tmp_path / "x.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(SystemExit) as stop:
        main([str(path), str(tmp_path / "out")])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert f"error: {path}: expected a checkpoint" in said.err.splitlines()[-1]
    assert reason in said.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(checkpoint), str(tmp_path)])
    assert "name a folder that is not there yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def edit(folder, **changes):
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def cut(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def lack(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_out.bias"]
    save_file(tensors, file, {"format": "pt"})


def other(folder, **options):
    UNet2DModel(**{**network(32).config, **options}).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "there is no such folder"),
        (lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(), "no file named"),
        (lambda folder: (folder / "config.json").unlink(), "no file named config.json"),
        (cut, "diffusion_pytorch_model.safetensors"),
        (lack, "it has no conv_out.bias"),
        (lambda folder: edit(folder, layers_per_block=3), "size mismatch"),
        (lambda folder: edit(folder, freq_shift=1), "its freq_shift is 1, expected 0"),
        (lambda folder: edit(folder, sample_size=[32, 32]), "its sample_size is"),
        (lambda folder: other(folder, num_class_embeds=10), "its num_class_embeds is 10, expected None"),
        (lambda folder: other(folder, out_channels=6), "its out_channels is 6, expected 3"),
    ],
)
def test_what_is_no_network_is_refused(damage, reason, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    with pytest.raises(UserError) as e:
        TorchCfmBackbone(Config(weights=str(copy)))
    said = str(e.value)
    assert said.startswith("backbone.weights: expected a folder that ")
    assert f"got '{copy}': " in said
    assert reason in said
    assert "\n" not in said


@pytest.mark.slow
def test_a_run_goes_to_its_end_and_its_result_is_read_by_diffusers(folder, tmp_path):
    run = tmp_path / "run"
    small = ["train.samples=4", "train.eval_samples=4", "train.updates=1", "sampler.steps=2"]
    sets = [word for option in (f"backbone.weights={folder}", *small) for word in ("--set", option)]
    options = ["--backbone", "torchcfm", "--reward", "jpeg-compressibility", "--rounds", "2", "--out", str(run)]
    orwcfm = Path(sys.executable).with_name("orwcfm")
    done = subprocess.run([orwcfm, "run", *options, *sets], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    trained = load_file(run / "checkpoints" / "round_0002" / "sampling.safetensors")
    network = UNet2DModel.from_pretrained(folder)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(trained)
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())
