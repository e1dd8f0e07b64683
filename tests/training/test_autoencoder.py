"""The VQGAN trains, resumes exactly, keeps its codebook in use, and exports what make_latents takes."""

import json

import mlflow
import pytest
import torch

from infra.errors import JobError, UsageError
from infra.recipe import Recipe
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from resshift.weights import load_vqgan
from tests.training.conftest import NETWORK, TOY, toy_recipe
from tests.training.test_denoiser import assert_same, dying_at, saved_state
from tests.training.test_resume import NO_GRADIENT, assert_close
from training import autoencoder_step
from training.autoencoder_loss import AdversarialBalance, AutoencoderPass, judge, surrogate
from training.autoencoder_run import run_autoencoder_training
from training.autoencoder_step import AutoencoderTraining
from training.autoencoder_task import open_autoencoder_task
from training.codebook import Codebook, kmeans
from training.config import AutoencoderTrainingConfig
from training.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from training.engine import Processes, autocast, join_processes

ALONE = Processes(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


class PlainEngine:
    """As much of an engine as a codebook needs."""

    def zero_optimization(self) -> bool:
        return False


def autoencoder_recipe(**values) -> Recipe:
    return toy_recipe(autoencoder={**TOY["training"]["autoencoder"], **values})


def test_two_and_two_steps_are_four_steps_bit_for_bit(pairs, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_autoencoder_training(autoencoder_recipe(), str(pairs), str(whole))
    with dying_at(2):
        run_autoencoder_training(autoencoder_recipe(), str(pairs), str(parts))
    run_autoencoder_training(autoencoder_recipe(), str(pairs), str(parts))
    assert_same(saved_state(whole, 4), saved_state(parts, 4))
    assert (whole / "autoencoder.safetensors").read_bytes() == (parts / "autoencoder.safetensors").read_bytes()


def test_what_a_run_leaves_behind(pairs, tmp_path):
    recipe = autoencoder_recipe(crop_size=32, lpips_weight=1.0)
    summary = run_autoencoder_training(recipe, str(pairs), str(tmp_path))
    assert summary.startswith(f"trained: {tmp_path}/autoencoder.json")
    vqgan = load_vqgan(tmp_path)
    assert vqgan.config == VQGANConfig(**NETWORK)
    assert vqgan.latent_scale not in (0.0, 1.0)
    run_id = json.loads((tmp_path / "mlflow_run.json").read_text())["run_id"]
    metrics = mlflow.MlflowClient().get_run(run_id).data.metrics
    expected = {"loss", "l1", "lpips", "commitment", "discriminator", "adversarial", "adversarial_weight",
                "codebook_usage", "validation_reconstruction_psnr_y",
                "validation_reconstruction_lpips_alex", "latent_scale",
                "flops_utilisation", "peak_memory_gib", "data_wait_share"}  # fmt: skip
    assert expected <= metrics.keys()
    assert run_autoencoder_training(recipe, str(pairs), str(tmp_path)).startswith("already trained")


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_reconstructions_get_better_and_codes_are_used(pairs, tmp_path, zero_stage):
    recipe = autoencoder_recipe(
        num_steps=50, codebook_start=0.5, revive_every=10, checkpoint_every=50, log_every=10, discriminator_weight=0.0,
        zero_stage=zero_stage, learning_rate=3e-3, warmup_steps=5,
    )  # fmt: skip
    run_autoencoder_training(recipe, str(pairs), str(tmp_path))
    client = mlflow.MlflowClient()
    run_id = json.loads((tmp_path / "mlflow_run.json").read_text())["run_id"]
    losses = [metric.value for metric in client.get_metric_history(run_id, "l1")]
    usage = [metric.value for metric in client.get_metric_history(run_id, "codebook_usage")]
    assert losses[-1] < 0.8 * losses[0]
    assert usage[-1] > 0.5


def test_latent_scale_gives_latents_unit_variance(pairs, tmp_path):
    run_autoencoder_training(autoencoder_recipe(crop_size=32), str(pairs), str(tmp_path))
    from pipelines.dataset import iter_shard, open_dataset
    from resshift.images import image_to_tensor

    vqgan = load_vqgan(tmp_path)
    dataset = open_dataset(str(pairs))
    images = [image_to_tensor(s["hq"]) for shard in range(2) for s in iter_shard(dataset, shard, ("hq",))]
    with torch.no_grad():
        scaled = vqgan.scale_latent(vqgan.encode(torch.cat(images)))
    assert float(scaled.std()) == pytest.approx(1.0, rel=0.15)


def test_the_surrogate_has_the_gradient_of_the_whole_objective():
    """Against autograd through everything at once; the balance against the last layer's true gradients."""
    torch.manual_seed(0)
    config = AutoencoderTrainingConfig(l1_weight=0.7, lpips_weight=0.0, commitment_weight=0.3)
    network = AutoencoderPass(VQGAN(VQGANConfig(**NETWORK)))
    discriminator = PatchDiscriminator(8, 1)
    hq = torch.rand(4, 3, 16, 16) * 2 - 1

    def found_in(images):
        reconstruction, commitment, _, _ = network(images, True)
        return reconstruction, commitment, judge(
            reconstruction, images, range(len(images)), config=config, perceptual=None, discriminator=discriminator,
            autocast=autocast("float32", torch.device("cpu")),
        )  # fmt: skip

    reconstruction, commitment, found = found_in(hq)
    surrogate(reconstruction, found.gradient + 0.6 * found.generator_gradient, commitment, 0.3).backward()
    ours = [parameter.grad.clone() for parameter in network.parameters()]

    network.zero_grad()
    reconstruction, commitment, _, _ = network(hq, True)
    nll = 0.7 * (reconstruction - hq).abs().mean()
    adversarial = generator_loss(discriminator(reconstruction))
    last = network.vqgan.decoder.conv_out.weight
    gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (nll, adversarial)]
    (nll + 0.6 * adversarial + 0.3 * commitment).backward()
    for expected, parameter in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)

    for size in (1, 2, 4):
        balance = AdversarialBalance(ALONE, micro_steps=4 // size)
        for part in hq.split(size):
            _, _, found = found_in(part)
            at_last_layer = network.last_layer_gradient
            balance.observe(at_last_layer(found.gradient), at_last_layer(found.generator_gradient))
        assert balance.weight == 0.0, "it serves the next step"
        balance.step_done()
        torch.testing.assert_close(balance.weight, adaptive_weight(*gradients), rtol=1e-4, atol=0.0)


def test_a_gradient_that_is_not_finite_leaves_the_balance_as_it_was():
    balance = AdversarialBalance(ALONE, micro_steps=1)
    balance.observe(torch.full((3,), 6.0), torch.full((3,), 2.0))
    balance.step_done()
    balance.observe(torch.full((3,), float("nan")), torch.full((3,), 2.0))
    balance.step_done()
    assert float(balance.weight) == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize(("share", "expected"), [(0.25, [3, 7]), (0.3, [2, 5, 7]), (1.0, list(range(8)))])
def test_lpips_looks_at_the_same_samples_however_the_batch_is_cut(share, expected):
    config = AutoencoderTrainingConfig(global_batch_size=8, micro_batch_size=2, lpips_share=share)
    assert config.lpips_samples == len(expected)
    for size in (1, 2, 4, 8):
        cuts = [range(start, start + size) for start in range(0, 8, size)]
        assert [slots[row] for slots in cuts for row in config.lpips_rows(slots)] == expected


def test_accumulating_micro_batches_is_the_whole_batch(pairs, tmp_path):
    """With LPIPS on a part of the samples, the adversarial loss and its weight."""
    states = []
    for micro in (4, 1):
        recipe = autoencoder_recipe(
            micro_batch_size=micro, num_steps=3, crop_size=32, lpips_weight=1.0, lpips_share=0.4, discriminator_start=0,
            codebook_start=0.0, checkpoint_every=3, validation_samples=0, linear_start=True,
        )  # fmt: skip
        run_autoencoder_training(recipe, str(pairs), str(tmp_path / str(micro)))
        states.append(saved_state(tmp_path / str(micro), 3))
    assert float(states[0]["state.safetensors"]["balance"]["weight"]) > 0.0
    assert_close(*states, 1e-3, NO_GRADIENT)


def test_a_run_that_was_made_shorter_than_it_already_is_exports_nothing(pairs, tmp_path):
    with dying_at(2):
        run_autoencoder_training(autoencoder_recipe(), str(pairs), str(tmp_path))
    with pytest.raises(UsageError, match=r"num_steps: 1 is less than the 2 steps that .*step-000002 has done"):
        run_autoencoder_training(autoencoder_recipe(num_steps=1), str(pairs), str(tmp_path))
    assert not (tmp_path / "trained.json").exists()


def test_hinge_losses():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.5 + 0.75))
    assert generator_loss(fake).item() == pytest.approx(1.25)


def test_kmeans_finds_the_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    found = kmeans(vectors, 6, generator)
    assert torch.cdist(centres, found).min(dim=1).values.max() < 0.2
    assert len(kmeans(vectors[:2], 5, generator)) == 5


def test_dead_codes_are_moved_onto_latents_and_others_stay():
    weight = torch.nn.Parameter(torch.full((4, 2), 100.0))
    codebook = Codebook(PlainEngine(), weight, ALONE)
    z = torch.arange(8.0).view(1, 2, 2, 2)
    codebook.observe(0, z, torch.tensor([1, 1, 3, 1]))
    usage, dead = codebook.usage()
    assert usage == 0.5
    assert dead.tolist() == [True, False, True, False]
    codebook.revive(dead, seed=0)
    vectors = [[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]
    assert [row in vectors for row in weight.tolist()] == [True, False, True, False]
    assert codebook.usage()[0] == 0.0


def test_latents_that_are_not_finite_never_become_codes():
    weight = torch.nn.Parameter(torch.full((4, 2), 100.0))
    codebook = Codebook(PlainEngine(), weight, ALONE)
    z = torch.arange(8.0).view(1, 2, 2, 2)
    z[0, 0, 0, 0], z[0, 1, 1, 1] = float("nan"), float("inf")
    codebook.observe(0, z, torch.tensor([0, 1, 2, 3]))
    codebook.observe(1, torch.full_like(z, float("nan")), torch.tensor([0, 0, 0, 0]))
    assert codebook.usage()[1].tolist() == [True, False, False, True]
    codebook.revive(torch.tensor([True] * 4), seed=0)
    assert {tuple(row) for row in weight.tolist()} <= {(1.0, 5.0), (2.0, 6.0)}
    codebook.place(seed=0)
    assert weight.isfinite().all()


def test_without_any_finite_latent_dead_codes_stay():
    weight = torch.nn.Parameter(torch.full((4, 2), 100.0))
    codebook = Codebook(PlainEngine(), weight, ALONE)
    codebook.observe(0, torch.full((1, 2, 2, 2), float("nan")), torch.tensor([0, 0, 0, 0]))
    assert torch.equal(codebook.revive(torch.tensor([True] * 4), seed=0), torch.full((4, 2), 100.0))


def test_only_revived_codes_lose_their_average(pairs, tmp_path):
    recipe = autoencoder_recipe(num_steps=10, codebook_start=0.0, revive_every=1)
    training = AutoencoderTraining(open_autoencoder_task(recipe, str(pairs)), str(tmp_path), join_processes())
    codebook, average = training.codebook, training.ema.average["quantize.embedding.weight"]
    codebook.placed = True
    before = average.fill_(7.0).clone()
    codebook.observe(0, torch.randn(1, 3, 4, 4), torch.arange(16))
    training._tend_codebook(1)
    assert torch.equal(average, before), "no code is dead"
    codebook.observe(1, torch.randn(1, 3, 4, 4), torch.arange(16).clamp(min=2))
    training._tend_codebook(2)
    assert torch.equal(average[2:], before[2:])
    assert torch.equal(average[:2], codebook.weight[:2])


def test_a_discriminator_that_is_not_finite_is_counted_and_ends_the_run(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder_step, "discriminator_loss", lambda real, fake: (real + fake).mean() * float("nan"))
    recipe = autoencoder_recipe(max_bad_steps=2, discriminator_start=1, checkpoint_every=1, keep_checkpoints=9)
    with pytest.raises(JobError, match="not finite for 2 steps in a row"):
        run_autoencoder_training(recipe, str(pairs), str(tmp_path))
    state = saved_state(tmp_path, 2)["state.safetensors"]
    assert state["bad_steps"] == {"skipped": 1, "in_a_row": 1}
    assert state["ema"]["num_updates"] == 2, "the autoencoder itself made both steps"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"crop_size": 64}, "crop_size: 64 must be a multiple of 4, at most the dataset's hq_size 32"),
        ({"crop_size": 24, "lpips_weight": 1.0}, "crop_size: 24 is too small for LPIPS"),
        ({"global_batch_size": 16}, "10 samples to train on are fewer than one global batch of 16"),
    ],
)
def test_what_does_not_fit_is_refused(pairs, tmp_path, values, expected):
    with pytest.raises(UsageError, match=expected):
        run_autoencoder_training(autoencoder_recipe(**values), str(pairs), str(tmp_path))


def test_dry_run_prints_the_plan_and_writes_nothing(pairs, tmp_path):
    plan = json.loads(run_autoencoder_training(autoencoder_recipe(), str(pairs), str(tmp_path / "out"), dry_run=True))
    assert plan["recipe"]["training"]["crop_size"] == 24
    assert not (tmp_path / "out").exists()
