"""Write torchcfm.json anew, from TorchCFM itself: `pip install torchcfm`, then `python record.py`."""

import json

import torch
from conftest import RECORD, make_points, make_weights
from torchcfm.models.unet.unet import UNetModelWrapper

# As in examples/images/cifar10/train_cifar10.py, but half as wide: with less, attention would have one head alone.
network = UNetModelWrapper(
    dim=(3, 32, 32),
    num_res_blocks=2,
    num_channels=64,
    channel_mult=[1, 2, 2, 2],
    num_heads=4,
    num_head_channels=64,
    attention_resolutions="16",
    dropout=0.1,
).eval()
shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
network.load_state_dict(make_weights(shapes))
with torch.no_grad():
    velocity = network(*make_points())[:, :, ::8, ::8]
RECORD.write_text(json.dumps({"shapes": shapes, "velocity": velocity.tolist()}) + "\n")
