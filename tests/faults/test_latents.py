"""kill -9 of an encoder and of the tasks around it: the latent shards are those of a run that nothing disturbed."""

import subprocess

import pytest
import torch

from infra.recipe import load_recipe
from pipelines.latents import make_latents
from pipelines.pairs import make_pairs
from pipelines.verification import verify
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from resshift.weights import save_vqgan
from tests.faults.conftest import ROOT, digests, environment, kill_a_worker

pytestmark = pytest.mark.faults
SMALL = ["shards.hq_size=64", "shards.samples_per_shard=8", "shards.variants=16"]
NETWORK = {"ch": 32, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "n_embed": 16}


def test_killed_encoders_and_tasks_are_replaced(photos, tmp_path, local_ray):
    pairs, expected, out = (str(tmp_path / name) for name in ("pairs", "expected", "out"))
    torch.manual_seed(1)
    save_vqgan(VQGAN(VQGANConfig(**NETWORK)), tmp_path / "autoencoder", latent_scale=1.0)
    overrides = [f"autoencoder.network.{key}={list(v) if isinstance(v, tuple) else v}" for key, v in NETWORK.items()]
    overrides += [f"autoencoder.weights={tmp_path / 'autoencoder'}", "autoencoder.precision=float32", *SMALL]
    make_pairs(load_recipe("realsr_x4", SMALL), str(photos), pairs)
    make_latents(load_recipe("realsr_x4", overrides), pairs, expected, workers=2)
    command = ["python", str(ROOT / "pipelines" / "make_latents.py"), "--recipe", "realsr_x4", *overrides]
    command += ["--pairs", pairs, "--out", out, "--workers", "2"]
    job = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    for victim in ("ray::Encoder.encode", "ray::make_latent_shard"):
        kill_a_worker(job, victim)
    said, complained = job.communicate(timeout=240)
    assert job.returncode == 0, complained
    assert "48 latents in 6 shards (6 made now)" in said
    assert digests(out) == digests(expected)
    assert verify(out).faults == []
