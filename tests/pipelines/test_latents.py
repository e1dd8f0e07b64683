"""make_latents: the same samples plus what the autoencoder makes of HQ and LQ, and the name of that autoencoder."""

import json
import shutil

import numpy as np
import pytest
import torch

from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from pipelines.autoencoder import AutoencoderConfig
from pipelines.dataset import iter_shard, open_dataset
from pipelines.estimate import Prices
from pipelines.latents import make_latents
from pipelines.latents_encoder import LATENT_TOLERANCE, Encoder
from pipelines.pairs import make_pairs
from pipelines.shard import read_shard
from pipelines.verification import verify
from resshift.images import image_to_tensor, upscale_lq
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from resshift.weights import fingerprint, load_vqgan, save_vqgan
from tests.pipelines.conftest import SMALL, shard_digests

pytestmark = pytest.mark.usefixtures("local_ray")
NETWORK = {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "n_embed": 16}
OVERRIDES = [*SMALL, *(f"autoencoder.network.{key}={value}" for key, value in NETWORK.items())]


def save_random(folder, seed: int) -> str:
    torch.manual_seed(seed)
    config = VQGANConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in NETWORK.items()})
    save_vqgan(VQGAN(config), folder, latent_scale=1.0)
    return str(folder)


@pytest.fixture(scope="module")
def stages(photos, tmp_path_factory, local_ray):
    folder = tmp_path_factory.mktemp("latents")
    make_pairs(load_recipe("realsr_x4", SMALL), str(photos), str(folder / "pairs"))
    weights = save_random(folder / "autoencoder", seed=1)
    recipe = load_recipe("realsr_x4", [*OVERRIDES, f"autoencoder.weights={weights}", "autoencoder.precision=float32"])
    make_latents(recipe, str(folder / "pairs"), str(folder / "latents"), workers=2)
    return folder, recipe


def test_latents_are_what_the_autoencoder_says(stages):
    folder, _ = stages
    dataset = open_dataset(str(folder / "latents"))
    vqgan = load_vqgan(folder / "latents" / "autoencoder")
    assert dataset.plan["identity"]["autoencoder"]["weights_sha256"] == fingerprint(vqgan)["weights_sha256"]
    pairs = open_dataset(str(folder / "pairs"))
    for sample, pair in zip(iter_shard(dataset, 1), iter_shard(pairs, 1), strict=True):
        assert sample["key"] == pair["key"]
        assert sample["record"] == pair["record"]
        np.testing.assert_array_equal(sample["hq"], pair["hq"])
        np.testing.assert_array_equal(sample["lq"], pair["lq"])
        with torch.inference_mode():
            z_hq = vqgan.encode(image_to_tensor(pair["hq"]))[0].numpy()
            z_lq = vqgan.encode(upscale_lq(image_to_tensor(pair["lq"]), 4))[0].numpy()
        assert sample["hq_latent"].dtype == np.float16
        # Encoded in a batch there, alone here: the difference is rounding to float16 and the order of sums.
        np.testing.assert_allclose(sample["hq_latent"], z_hq, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(sample["lq_latent"], z_lq, rtol=2e-3, atol=2e-3)


def test_a_sample_is_encoded_the_same_in_any_batch(stages):
    """Among other neighbours, in a batch of another size, filled up at the end: within the stated tolerance."""
    folder, recipe = stages
    pairs = open_dataset(str(folder / "pairs"))
    samples = [sample for shard in range(3) for sample in iter_shard(pairs, shard)]
    hq, lq = (np.stack([sample[name] for sample in samples]) for name in ("hq", "lq"))
    for precision in ("float32", "bfloat16", "float16"):
        config = recipe.section("autoencoder", AutoencoderConfig).model_copy(update={"precision": precision})
        encoder = Encoder(str(folder / "autoencoder"), config)
        together = encoder.encode(hq, lq)
        turned = encoder.encode(np.roll(hq, 4, axis=0), np.roll(lq, 4, axis=0))
        for place in (0, 8):
            alone = encoder.encode(hq[place : place + 1], lq[place : place + 1])
            tolerance = LATENT_TOLERANCE[precision]
            for one, other, all_of_them in zip(alone, turned, together, strict=True):
                scale = np.abs(all_of_them.astype(np.float32)).max()
                np.testing.assert_allclose(one[0], all_of_them[place], rtol=0, atol=tolerance * scale)
                np.testing.assert_allclose(other[(place + 4) % 9], all_of_them[place], rtol=0, atol=tolerance * scale)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_do_not_depend_on_the_number_of_encoders(stages, tmp_path, workers):
    folder, recipe = stages
    make_latents(recipe, str(folder / "pairs"), str(tmp_path / "out"), workers=workers)
    assert shard_digests(tmp_path / "out") == shard_digests(folder / "latents")


def test_relative_places_mean_what_they_mean_to_the_command(stages, tmp_path, monkeypatch):
    """Ray's workers stand in another folder than who started this test moves to."""
    folder, _ = stages
    for name in ("pairs", "autoencoder"):
        shutil.copytree(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    near = load_recipe("realsr_x4", [*OVERRIDES, "autoencoder.weights=autoencoder", "autoencoder.precision=float32"])
    assert make_latents(near, "pairs", "out", workers=1).split(";")[0].endswith("(3 made now) -> out")
    assert shard_digests("out") == shard_digests(folder / "latents")


def test_pictures_and_records_are_those_of_the_pairs_byte_for_byte(stages):
    folder, _ = stages
    pairs, latents = open_dataset(str(folder / "pairs")), open_dataset(str(folder / "latents"))
    for shard in range(3):
        stored = zip(
            read_shard(pairs.url, pairs.shards[shard]), read_shard(latents.url, latents.shards[shard]), strict=True
        )
        for pair, latent in stored:
            assert {name: latent[name] for name in pair} == pair
            assert set(latent) - set(pair) == {"hq_latent.npy", "lq_latent.npy"}


def test_what_made_the_latents_is_recorded(stages):
    folder, _ = stages
    made_by = open_dataset(str(folder / "latents")).plan["identity"]["autoencoder"]
    assert {"weights_sha256", "preprocessing", "input", "precision", "batch_size", "latent_scale", "stored"} <= set(
        made_by
    )


def test_verify_looks_at_the_autoencoder_too(stages, tmp_path):
    folder, _ = stages
    shutil.copytree(folder / "latents", tmp_path / "out")
    assert verify(str(tmp_path / "out")).faults == []
    save_random(tmp_path / "out" / "autoencoder", seed=2)
    assert verify(str(tmp_path / "out")).faults == [
        "autoencoder: its weights_sha256 is not that of the autoencoder that made the latents"
    ]
    weights = tmp_path / "out" / "autoencoder" / "autoencoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "autoencoder.safetensors' is not a readable safetensors file" in verify(str(tmp_path / "out")).faults[0]
    weights.unlink()
    assert "is missing" in verify(str(tmp_path / "out")).faults[0]


def test_a_dry_run_estimates_and_stores_nothing(stages, tmp_path, monkeypatch):
    folder, recipe = stages
    monkeypatch.chdir(folder)  # where no worker stands
    near = load_recipe("realsr_x4", [*OVERRIDES, "autoencoder.weights=autoencoder", "autoencoder.precision=float32"])
    said = make_latents(near, "pairs", str(tmp_path / "out"), 2, True, Prices(cpu_hour=1))
    assert not (tmp_path / "out").exists()
    plan, probe, expected, cost = said.splitlines()
    assert "9 pairs in 3 shards, 0 of them made already, autoencoder " in plan
    assert probe.startswith("probe: 4 pairs made and thrown away: ")
    assert " of a core for the encoder and " in probe
    assert " with 2 workers " in expected
    assert cost.endswith(" at 1 per CPU-hour)")
    weighed = make_latents(recipe, str(folder / "pairs"), str(folder / "latents"), 1, True).splitlines()[2]
    assert "expected: 0 s with 1 workers" in weighed  # all of it is made already


def test_running_again_redoes_only_what_is_missing(stages):
    folder, recipe = stages
    before = shard_digests(folder / "latents")
    (folder / "latents" / "shards" / "000001.json").unlink()
    assert "(1 made now)" in make_latents(recipe, str(folder / "pairs"), str(folder / "latents"), workers=1)
    assert shard_digests(folder / "latents") == before


def test_other_weights_are_refused(stages, tmp_path):
    folder, _ = stages
    other = load_recipe("realsr_x4", [*OVERRIDES, f"autoencoder.weights={save_random(tmp_path / 'other', seed=2)}"])
    with pytest.raises(UsageError, match=r"holds another dataset.*weights_sha256"):
        make_latents(other, str(folder / "pairs"), str(folder / "latents"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["autoencoder.weights=null"], r"autoencoder\.weights: is not set"),
        (["autoencoder.weights=''"], r"autoencoder\.weights: is not set"),
        (["autoencoder.weights=/nowhere"], r"no autoencoder\.json there"),
        (["autoencoder.network=null"], "works in pixel space"),
        (["autoencoder.network.ch=64"], "another network"),
        (["task=deblurring"], "task is 'super_resolution', this run needs 'deblurring'"),
        (["scale=2"], "scale is 4, this run needs 2"),
    ],
)
def test_bad_recipes(stages, tmp_path, overrides, expected):
    folder, recipe = stages
    weights = f"autoencoder.weights={recipe.raw['autoencoder']['weights']}"
    bad = load_recipe("realsr_x4", [*OVERRIDES, weights, *overrides])
    with pytest.raises(UsageError, match=expected):
        make_latents(bad, str(folder / "pairs"), str(tmp_path / "out"))


def test_latents_that_overflow_are_never_stored(stages, tmp_path):
    folder, _ = stages
    vqgan = load_vqgan(save_random(tmp_path / "large", seed=1))
    with torch.no_grad():
        vqgan.encoder.conv_in.weight.mul_(1e6)  # what follows is normalised, but float16 ends before
    save_vqgan(vqgan, tmp_path / "large", latent_scale=1.0)
    options = [*OVERRIDES, f"autoencoder.weights={tmp_path / 'large'}"]
    recipe = load_recipe("realsr_x4", [*options, "autoencoder.precision=float16"])
    with pytest.raises(
        JobError, match=r"^autoencoder\.precision: float16 overflows, latents of a batch are not finite"
    ):
        make_latents(recipe, str(folder / "pairs"), str(tmp_path / "out"))
    assert not list((tmp_path / "out" / "shards").glob("*.json"))
    recipe = load_recipe("realsr_x4", [*options, "autoencoder.precision=float32"])
    make_latents(recipe, str(folder / "pairs"), str(tmp_path / "other"))


def test_latents_of_latents_are_refused(stages, tmp_path):
    folder, recipe = stages
    with pytest.raises(UsageError, match="kind is 'latents', this run needs 'pairs'"):
        make_latents(recipe, str(folder / "latents"), str(tmp_path / "out"))


def test_weights_that_do_not_fit_their_configuration(stages, tmp_path):
    folder, _ = stages
    weights = tmp_path / "damaged"
    save_random(weights, seed=1)
    (weights / "autoencoder.safetensors").write_bytes(b"damaged")
    bad = load_recipe("realsr_x4", [*OVERRIDES, f"autoencoder.weights={weights}"])
    with pytest.raises(UsageError, match="not a readable safetensors file"):
        make_latents(bad, str(folder / "pairs"), str(tmp_path / "out"))


def test_pairs_that_were_all_rejected_are_refused(stages, tmp_path):
    folder, recipe = stages
    shutil.copytree(folder / "pairs", tmp_path / "pairs")
    for path in (tmp_path / "pairs" / "shards").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_samples": 0}))
    for dry_run in (False, True):
        with pytest.raises(UsageError, match="holds no sample, all of its images were rejected; see its rejects"):
            make_latents(recipe, str(tmp_path / "pairs"), str(tmp_path / "out"), dry_run=dry_run)
