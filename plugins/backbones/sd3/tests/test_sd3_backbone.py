"""Stable Diffusion 3 as a backbone, on a tiny random pipeline that diffusers itself has written."""

import copy
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from orwcfm_backbone_sd3.backbone import Sd3Backbone
from orwcfm_backbone_sd3.plugin import Config, orwcfm_backbones, suggest
from orwcfm_core.errors import UserError
from orwcfm_core.sampler import Euler
from safetensors.torch import load_file, save_file

PROMPTS = ["a red house", "a dog", "a red house"]


@pytest.fixture(scope="module")
def original(folder) -> StableDiffusion3Pipeline:
    """What diffusers makes of the folder, untouched by us."""
    return StableDiffusion3Pipeline.from_pretrained(folder, use_safetensors=True)


def build(folder: Path, **options: object) -> Sd3Backbone:
    small = {"resolution": 32, "rank": 2, "dtype": "fp32", "guidance": 3.0}
    return Sd3Backbone(Config(model=str(folder), **(small | options)))


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def perturb(backbone: Sd3Backbone, scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in backbone.policy().parameters().values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def prediction(original: StableDiffusion3Pipeline, x: torch.Tensor, sigma: torch.Tensor, prompts: list[str]):
    tokens, _, pooled, _ = original.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
    return original.transformer(x, tokens, pooled, 1000 * sigma.expand(len(x))).sample


@pytest.mark.parametrize("t", [torch.tensor(0.3), torch.tensor([0.0, 0.4, 1.0])], ids=["scalar", "batch"])
def test_velocity_is_the_negative_prediction_at_the_noise_level(folder, original, t):
    backbone, x = build(folder, guidance=1.0), latents(3)
    for field in (backbone.policy(), backbone.reference()):
        with torch.no_grad():
            v = field.velocity(t, x, backbone.encode(PROMPTS))
        torch.testing.assert_close(v, -prediction(original, x, 1 - t, PROMPTS), atol=1e-5, rtol=1e-5)


def test_guidance_extrapolates_from_the_empty_prompt(folder, original):
    backbone, x, sigma = build(folder, guidance=2.5), latents(3), torch.tensor(0.6)
    with torch.no_grad():
        v = backbone.policy().velocity(1 - sigma, x, backbone.encode(PROMPTS))
    f, f_null = (prediction(original, x, sigma, prompts) for prompts in (PROMPTS, [""] * 3))
    assert (f - f_null).abs().max() > 1e-3
    torch.testing.assert_close(v, -(f_null + 2.5 * (f - f_null)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_sampling_is_that_of_the_diffusers_pipeline(folder, original, shift, monkeypatch):
    backbone, noise, steps = build(folder, guidance=3.0), latents(2), 10
    monkeypatch.setattr(original, "scheduler", FlowMatchEulerDiscreteScheduler(shift=shift))
    ours = Euler(steps, shift).sample(backbone.policy(), noise, backbone.encode(PROMPTS[:2])).x_1
    options = {"latents": noise, "guidance_scale": 3.0, "sigmas": [1 - i / steps for i in range(steps)]}
    original.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32}
    theirs = original(PROMPTS[:2], output_type="latent", **size, **options).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    pictures = original(PROMPTS[:2], output_type="pt", **size, **options).images
    torch.testing.assert_close(backbone.to_images(ours), pictures, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("autocast", [False, True])
def test_policy_starts_as_the_reference_and_leaves_it_alone(folder, dtype, autocast):
    backbone, x, t = build(folder, dtype=dtype), latents(3), torch.tensor([0.1, 0.5, 0.9])
    condition = backbone.encode(PROMPTS)

    def velocities() -> list[torch.Tensor]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return [field.velocity(t, x, condition) for field in (backbone.policy(), backbone.reference())]

    v, v_ref = velocities()
    perturb(backbone)
    v_new, v_still = velocities()
    assert v.dtype == v_ref.dtype == x.dtype
    assert v.shape == x.shape
    assert torch.equal(v, v_ref)
    assert torch.equal(v_still, v_ref)
    assert (v_new - v).abs().max() > 1e-3


def test_reference_switches_lora_on_again_even_after_an_error(folder):
    backbone, x = build(folder), latents(2)
    perturb(backbone)
    policy, condition, t = backbone.policy(), backbone.encode(PROMPTS[:2]), torch.tensor(0.5)
    before = policy.velocity(t, x, condition)
    with pytest.raises(RuntimeError):
        backbone.reference().velocity(t, x[:, :3], condition)
    assert torch.equal(policy.velocity(t, x, condition), before)
    assert all(parameter.requires_grad for parameter in policy.parameters().values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_reaches_all_of_lora_and_nothing_else(folder, checkpointing):
    backbone, x = build(folder, gradient_checkpointing=checkpointing), latents(3)
    perturb(backbone)
    policy, condition, t = backbone.policy(), backbone.encode(PROMPTS), torch.tensor(0.5)
    v = policy.velocity(t, x, condition)
    # The reference is asked between the policy's forward and backward pass.
    assert not backbone.reference().velocity(t, x, condition).requires_grad
    v.square().mean().backward()
    parameters = policy.parameters()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in parameters.values())
    assert all(parameter.dtype == torch.float32 for parameter in parameters.values())
    networks = [part for part in backbone._pipeline.components.values() if isinstance(part, torch.nn.Module)]
    trainable = {id(p) for network in networks for p in network.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in parameters.values()}


def test_gradient_is_the_same_with_checkpointing(folder):
    gradients = []
    for checkpointing in (False, True):
        backbone = build(folder, gradient_checkpointing=checkpointing)
        perturb(backbone)
        v = backbone.policy().velocity(torch.tensor(0.5), latents(2), backbone.encode(PROMPTS[:2]))
        v.square().mean().backward()
        gradients.append([p.grad for p in backbone.policy().parameters().values()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_two_backbones_are_the_same_and_leave_the_global_generator_alone(folder):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build(folder).policy().parameters()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second = build(folder).policy().parameters()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_sample_does_not_depend_on_its_batch(folder):
    backbone, x, t = build(folder), latents(3), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        together = backbone.policy().velocity(t, x, backbone.encode(PROMPTS))
        alone = [
            backbone.policy().velocity(t[i, None], x[i, None], backbone.encode(PROMPTS[i : i + 1])) for i in range(3)
        ]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)


def test_every_prompt_is_embedded_once_and_as_by_diffusers(folder, original, monkeypatch):
    backbone, seen = build(folder), []
    encoder = backbone._pipeline.text_encoder_3
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda ids, **options: seen.append(len(ids)) or forward(ids, **options))
    with torch.autocast("cpu", torch.bfloat16):
        condition = backbone.encode(PROMPTS)
    assert seen == [1, 1]
    assert not any(value.requires_grad for value in condition.values())
    assert {name: value.shape for name, value in condition.items()} == {"prompt": (3, 272, 32), "pooled": (3, 16)}
    tokens, _, pooled, _ = original.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(condition["prompt"], tokens)
    torch.testing.assert_close(condition["pooled"], pooled)

    # The empty prompt of guidance counts as one more, whatever the number of samples and evaluations.
    for field in (backbone.policy(), backbone.reference(), backbone.policy()):
        field.velocity(torch.tensor(0.5), latents(3), condition)
    assert seen == [1] * 3
    backbone.encode(["a dog", "something new"])
    assert seen == [1] * 4


def test_no_guidance_is_one_evaluation(folder, monkeypatch):
    for guidance, expected in ((1.0, 1), (3.0, 2)):
        backbone, calls = build(folder, guidance=guidance), []
        transformer = backbone._pipeline.transformer
        transformer.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        backbone.policy().velocity(torch.tensor(0.5), latents(1), backbone.encode(["a dog"]))
        assert len(calls) == expected


def test_images_are_in_range_and_differentiable(folder):
    backbone = build(folder, dtype="bf16")
    assert backbone.sample_shape == (4, 16, 16)
    x = (10 * latents(6)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        images = backbone.to_images(x)
    assert images.shape == (6, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    images.sum().backward()
    assert x.grad.any()


def test_parameters_make_the_round_trip_to_a_file_and_to_diffusers(folder, original, tmp_path):
    backbone, x, t = build(folder, guidance=1.0), latents(2), torch.tensor(0.5)
    perturb(backbone)
    condition = backbone.encode(PROMPTS[:2])
    save_file({name: p.detach() for name, p in backbone.policy().parameters().items()}, tmp_path / "lora.safetensors")
    with torch.no_grad():
        v = backbone.policy().velocity(t, x, condition)
        other, stored = build(folder, guidance=1.0), load_file(tmp_path / "lora.safetensors")
        for name, parameter in other.policy().parameters().items():
            parameter.copy_(stored[name])
        assert torch.equal(other.policy().velocity(t, x, condition), v)
    theirs = copy.deepcopy(original)
    theirs.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    torch.testing.assert_close(-prediction(theirs, x, 1 - t, PROMPTS[:2]), v, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stored", [True, False], ids=["t5-unwanted", "t5-absent"])
def test_t5_may_be_left_out_or_missing(folder, pipeline, tmp_path, stored):
    if not stored:
        folder = tmp_path / "without"
        pipeline(t5=False).save_pretrained(folder)
    backbone = build(folder, t5=not stored)
    assert backbone._pipeline.text_encoder_3 is None
    condition = backbone.encode(["a dog"])
    assert condition["prompt"].shape == (1, 272, 32)
    assert not condition["prompt"][:, 16:].any()
    assert backbone.policy().velocity(torch.tensor(0.5), latents(1), condition).isfinite().all()


def test_weights_in_several_files_are_read(folder, pipeline, tmp_path):
    pipeline().save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded" / "transformer").glob("*.safetensors"))) > 1
    x, t = latents(1), torch.tensor(0.5)
    fields = [
        (backbone.reference(), backbone.encode(["a dog"])) for backbone in map(build, (folder, tmp_path / "sharded"))
    ]
    one, other = (field.velocity(t, x, condition) for field, condition in fields)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("resolution", [30, 96])
def test_a_resolution_that_the_model_has_not_is_one_line(folder, resolution):
    with pytest.raises(UserError, match=rf"^backbone\.resolution: .*multiple of 4 up to 64.*got {resolution}$"):
        build(folder, resolution=resolution)


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    ("part", "good", "bad"),
    [
        ("transformer", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
        ("text_encoder_3", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_pickled_weights_are_refused_unread(folder, tmp_path, part, good, bad):
    pickled, mark = shutil.copytree(folder, tmp_path / "pickled"), tmp_path / "mark"
    (pickled / part / good).unlink()
    (pickled / part / bad).write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match=r"^backbone\.model: .*safetensors, got"):
        build(pickled)
    assert not mark.exists()


def test_a_pickled_adapter_is_refused_unread(folder, tmp_path):
    adapted, mark = shutil.copytree(folder, tmp_path / "adapted"), tmp_path / "mark"
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
    (adapted / "text_encoder" / "adapter_config.json").write_text(json.dumps(adapter))
    (adapted / "text_encoder" / "adapter_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match=r"^backbone\.model: .*text_encoder comes with an adapter"):
        build(adapted)
    assert not mark.exists()


def spoil(folder: Path, how: str) -> None:
    index = folder / "model_index.json"
    match how:
        case "no index":
            index.unlink()
        case "broken index":
            index.write_text("{")
        case "other model":
            index.write_text(index.read_text().replace("SD3Transformer2DModel", "FluxTransformer2DModel"))
        case "no transformer":
            shutil.rmtree(folder / "transformer")
        case "no tokenizer":
            shutil.rmtree(folder / "tokenizer_2")
        case "no vocabulary":
            (folder / "tokenizer" / "tokenizer.json").unlink()
        case "no vocabulary of T5":
            (folder / "tokenizer_3" / "tokenizer.json").unlink()
        case "no scheduler":
            shutil.rmtree(folder / "scheduler")
        case "broken weights":
            (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
        case "broken encoder":
            (folder / "text_encoder" / "model.safetensors").write_bytes(b"")
        case "tensor missing":
            file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
            tensors = load_file(file)
            del tensors["proj_out.weight"]
            save_file(tensors, file, metadata={"format": "pt"})
        case "encoder tensor missing":
            file = folder / "text_encoder" / "model.safetensors"
            tensors = load_file(file)
            del tensors["text_projection.weight"]
            save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "how",
    [
        "no index",
        "broken index",
        "other model",
        "no transformer",
        "no tokenizer",
        "no vocabulary",
        "no vocabulary of T5",
        "no scheduler",
        "broken weights",
        "broken encoder",
        "tensor missing",
        "encoder tensor missing",
    ],
)
def test_a_folder_that_is_no_whole_model_is_one_line(folder, tmp_path, how):
    broken = shutil.copytree(folder, tmp_path / "broken")
    spoil(broken, how)
    with pytest.raises(UserError, match=r"^backbone\.model: expected a Stable Diffusion 3 model") as caught:
        build(broken)
    assert f"got '{broken}'" in str(caught.value)
    assert "\n" not in str(caught.value)


TRY = """
import sys
from orwcfm_backbone_sd3.backbone import Sd3Backbone
from orwcfm_backbone_sd3.plugin import Config
from orwcfm_core.errors import UserError
for model in sys.argv[1:]:
    try:
        print(Sd3Backbone(Config(model=model, resolution=32)).encode(["a dog"])["prompt"].shape)
    except UserError as e:
        print(e)
"""


def attempts(home: Path, *models: str, **env: str) -> list[str]:
    """A line for every model that a process with this cache of the hub tries to load."""
    command = [sys.executable, "-c", TRY, *models]
    environment = os.environ | {"HF_HOME": str(home), **env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def hub(folder) -> Iterator[str]:
    """A hub with `tiny/model`, `tiny/gated` that wants a licence accepted, and `tiny/empty`."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            model, _, name = self.path.lstrip("/").removeprefix("api/models/").partition("/resolve/")
            file = folder / name.partition("/")[2]
            if model == "tiny/gated":
                self.answer(401, b"", "GatedRepo")
            elif model == "tiny/empty":
                self.answer(404, b"", "EntryNotFound")
            elif not model.startswith("tiny/model"):
                self.answer(401, b"", "RepoNotFound")
            elif name and file.is_file():
                self.answer(200, file.read_bytes())
            elif name or "/tree/" in model:  # of chat templates, which tokenizers look for
                self.answer(404, b"", "EntryNotFound")
            else:
                self.answer(200, json.dumps({"id": "tiny/model", "sha": "0" * 40, "siblings": []}).encode())

        def answer(self, status: int, body: bytes, error: str = "") -> None:
            self.send_response(status)
            self.send_header("X-Error-Code" if error else "X-Repo-Commit", error or "0" * 40)
            self.send_header("ETag", hashlib.sha1(body).hexdigest())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
def test_models_come_from_the_hub_by_name_and_from_its_cache(hub, tmp_path):
    models = [f"tiny/{name}" for name in ("model", "gated", "empty", "unknown")]
    found, gated, empty, unknown = attempts(tmp_path, *models, HF_ENDPOINT=hub)
    assert found == "torch.Size([1, 272, 32])"
    assert "accept its licence at https://huggingface.co/tiny/gated" in gated
    assert "it has no model_index.json" in empty
    assert "no such folder or public model" in unknown
    offline = attempts(tmp_path, "tiny/model", "tiny/unknown", "no/such/folder", "./nowhere", HF_HUB_OFFLINE="1")
    assert offline[0] == found
    assert "cannot be reached" in offline[1]
    assert all("there is no such folder, and the name" in line for line in offline[2:])
    for line, model in zip(offline[1:], ("tiny/unknown", "no/such/folder", "./nowhere"), strict=True):
        assert line.startswith("backbone.model: expected a Stable Diffusion 3 model")
        assert f"got '{model}'" in line


def test_light_module_imports_nothing_heavy():
    code = "import sys, orwcfm_backbone_sd3.plugin; sys.exit(bool({'torch', 'diffusers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_specification():
    (spec,) = orwcfm_backbones()
    assert spec.conditional(Config())
    assert all(field.description for field in Config.model_fields.values())
    assert suggest(Config(), ()).prompts


@pytest.mark.slow
def test_three_rounds_from_the_command_line(folder, tmp_path):
    def orwcfm(*args: str) -> dict[str, object]:
        command = [str(Path(sys.executable).with_name("orwcfm")), *args, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    model = [f"backbone.model={folder}", "backbone.resolution=16", "backbone.rank=2", "heldout.name=none"]
    train = ["train.samples=4", "train.eval_samples=8", "train.checkpoint_every=1", "sampler.steps=2"]
    options = [arg for option in (*model, *train) for arg in ("--set", option)]
    choice = ["--backbone", "sd3", "--reward", "jpeg-compressibility", "--reg", "w2", "--alpha", "0.1"]
    prompts = ["--prompt", "a red house", "--prompt", "a dog"]
    run = tmp_path / str(orwcfm("run", *choice, *options, *prompts, "--rounds", "3", "--out", "run")["run"])

    def rows() -> list[dict[str, object]]:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]

    first = rows()
    assert [row["round"] for row in first] == [1, 2, 3]
    assert first[0]["velocity_divergence"] == 0
    assert first[-1]["velocity_divergence"] > 0
    orwcfm("sample", str(run), "--count", "2")
    assert (run / "sample.png").exists()

    # As if it had been killed in the third round.
    final = load_file(run / "checkpoints" / "round_0003" / "sampling.safetensors")
    shutil.rmtree(run / "checkpoints" / "round_0003")
    orwcfm("resume", str(run))
    assert rows() == first
    again = load_file(run / "checkpoints" / "round_0003" / "sampling.safetensors")
    assert all(torch.equal(again[name], final[name]) for name in final)
