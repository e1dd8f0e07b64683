"""A toy recipe, and a dataset of latents for it, so small that a step takes milliseconds."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from infra.recipe import Recipe, digest
from pipelines.dataset import SCHEMA_VERSION, freeze_plan
from pipelines.shard import (
    encode_json,
    encode_npy,
    encode_png,
    make_shard,
    sample_key,
)
from resshift.images import image_to_tensor, upscale_lq
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from resshift.weights import fingerprint, save_vqgan

HQ_SIZE, SCALE = 32, 4

# A group of one channel would take out the bias before it and leave rounding for a gradient, here and in the denoiser.
NETWORK = {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "n_embed": 16, "norm_groups": 8}

TOY = {
    "name": "toy",
    "task": "super_resolution",
    "scale": SCALE,
    "shards": {"hq_size": HQ_SIZE, "samples_per_shard": 6, "variants": 2},
    "autoencoder": {"network": NETWORK},
    "denoiser": {
        "image_size": 8,
        "lq_size": 8,
        "model_channels": 32,
        "norm_groups": 8,
        "channel_mult": [1],
        "num_res_blocks": 1,
        "attention_resolutions": [8],
        "swin_embed_dim": 32,
        "dropout": 0.1,
    },
    "schedule": {"num_steps": 4},
    "training": {
        "num_steps": 6,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 1e-3,
        "min_learning_rate": 1e-4,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "lpips_weight": 0.0,
        "precision": "float32",
        "zero_stage": 0,
        "compile": False,
        "checkpoint_every": 3,
        "keep_checkpoints": 2,
        "log_every": 2,
        "validation_samples": 2,
        "validate_every": 100,
        "seed": 5,
        "autoencoder": {
            "num_steps": 4,
            "global_batch_size": 4,
            "micro_batch_size": 4,
            "learning_rate": 1e-3,
            "min_learning_rate": 1e-4,
            "warmup_steps": 1,
            "precision": "float32",
            "zero_stage": 0,
            "compile": False,
            "crop_size": 24,
            "lpips_weight": 0.0,
            "discriminator_channels": 8,
            "discriminator_layers": 1,
            "discriminator_start": 2,
            "checkpoint_every": 2,
            "log_every": 1,
            "validation_samples": 2,
            "validate_every": 100,
            "linear_start": False,
            "codebook_start": 0.3,
            "revive_every": 2,
        },
    },
}


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Networks so small that a second thread only costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy_recipe(**training) -> Recipe:
    """The toy recipe with some values of its training section replaced."""
    return Recipe.from_dict({**TOY, "training": {**TOY["training"], **training}})


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return path


def images(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random HQ image and its LQ image, uint8."""
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
    hq = np.kron(coarse, np.ones((HQ_SIZE // 4, HQ_SIZE // 4, 1))).astype(np.uint8)
    return hq, np.ascontiguousarray(hq[::SCALE, ::SCALE])


def write_dataset(url: Path, kind: str, counts: list[int], **identity) -> Path:
    """A dataset of `kind` "pairs" or "latents" with `counts` samples in its shards, as the pipelines write it."""
    rng = np.random.default_rng(3)
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig(**NETWORK), latent_scale=0.5).eval()
    if kind == "latents":
        save_vqgan(vqgan, url / "autoencoder")
        identity = {"autoencoder": fingerprint(vqgan), **identity}
    for shard, count in enumerate(counts):
        samples = []
        for slot in range(count):
            hq, lq = images(rng)
            sample = {"__key__": sample_key(shard, slot), "hq.png": encode_png(hq), "lq.png": encode_png(lq),
                      "json": encode_json({})}  # fmt: skip
            if kind == "latents":
                with torch.no_grad():
                    z_hq = vqgan.encode(image_to_tensor(hq))
                    z_lq = vqgan.encode(upscale_lq(image_to_tensor(lq), SCALE))
                sample["hq_latent.npy"] = encode_npy(z_hq[0].numpy().astype(np.float16))
                sample["lq_latent.npy"] = encode_npy(z_lq[0].numpy().astype(np.float16))
            samples.append(sample)
        make_shard(str(url), shard, samples)
    identity = {"kind": kind, "task": "super_resolution", "scale": SCALE, **identity}
    plan = {"schema_version": SCHEMA_VERSION, "identity": identity, "plan_hash": digest(identity),
            "num_shards": len(counts), "num_samples_planned": sum(counts), "recipe": TOY}  # fmt: skip
    freeze_plan(str(url), plan)
    return url


@pytest.fixture(scope="session")
def latents(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("latents"), "latents", [6, 6, 5, 6])


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("pairs"), "pairs", [6, 6])


def command(module: str, *arguments, processes: int = 1) -> list[str]:
    """Command line of one of our commands, under torchrun for several processes."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = Path(__file__).parents[2] / "training" / f"{module}.py"
    return [*launcher, str(script), *map(str, arguments)]


def run(*arguments, processes: int = 1, check: bool = True, **env) -> subprocess.CompletedProcess:
    """Run one of our commands as a user would."""
    done = subprocess.run(
        command(*arguments, processes=processes),
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done
