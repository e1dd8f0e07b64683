"""Reading the golden arrays of tests/golden."""

import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "golden"


def arrays(name):
    """All arrays of one golden file as tensors; text entries as Python strings."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {k: file[k].item() if file[k].dtype.kind == "U" else torch.as_tensor(file[k]) for k in file.files}


def network(name):
    """(params, state dict, other arrays) of a golden network file."""
    entries = arrays(name)
    state_dict = {k.removeprefix("sd/"): entries.pop(k) for k in list(entries) if k.startswith("sd/")}
    return json.loads(entries.pop("config")), state_dict, entries


def official_shapes(name):
    """Every key of an official checkpoint with its shape."""
    return json.loads((FOLDER / "official_state_dict_shapes.json").read_text())[name]


def official_params(name):
    """The parameters with which the official configurations build that checkpoint's network."""
    unet = {
        "image_size": 64,
        "in_channels": 3,
        "model_channels": 160,
        "out_channels": 3,
        "attention_resolutions": [64, 32, 16, 8],
        "dropout": 0,
        "channel_mult": [1, 2, 2, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "conv_resample": True,
        "dims": 2,
        "use_fp16": False,
        "num_head_channels": 32,
        "use_scale_shift_norm": True,
        "resblock_updown": False,
        "swin_depth": 2,
        "swin_embed_dim": 192,
        "window_size": 8,
        "mlp_ratio": 4,
        "cond_lq": True,
        "lq_size": 64,
    }
    f4 = {
        "double_z": False,
        "z_channels": 3,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
        "padding_mode": "zeros",
    }
    f8 = f4 | {"z_channels": 8, "resolution": 512, "ch": 64, "ch_mult": [1, 2, 4, 8], "num_res_blocks": [1, 2, 3, 4]}
    return {
        "realsr_x4": unet,
        "realsr_x2": unet | {"lq_size": 128},
        "inpaint": unet | {"lq_size": 256, "cond_mask": True},
        "face512": unet | {"in_channels": 8, "out_channels": 8, "lq_size": 512},
        "vqgan_f4": {"embed_dim": 3, "n_embed": 8192, "ddconfig": f4},
        "vqgan_f8_face": {"embed_dim": 8, "n_embed": 4096, "ddconfig": f8},
    }[name]
