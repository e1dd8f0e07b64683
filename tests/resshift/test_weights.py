import json

import pytest
import torch

from resshift import VQGAN, VQGANConfig
from resshift.weights import fingerprint, load_vqgan, save_vqgan

CONFIG = VQGANConfig(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, n_embed=16)


@pytest.fixture
def vqgan():
    torch.manual_seed(0)
    return VQGAN(CONFIG)


def test_round_trip(vqgan, tmp_path):
    identity = save_vqgan(vqgan, tmp_path / "new" / "folder", latent_scale=1.5)
    loaded = load_vqgan(tmp_path / "new" / "folder")
    assert loaded.config == CONFIG
    assert loaded.latent_scale == 1.5
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(vqgan.parameters(), loaded.parameters(), strict=True))
    assert fingerprint(loaded) == identity == fingerprint(vqgan)
    assert identity["downscale"] == 4
    json.dumps(identity)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "autoencoder.json",
        "autoencoder.safetensors",
    ]


def test_saving_twice_gives_the_same_bytes_and_another_weight_another_fingerprint(vqgan, tmp_path):
    for name in ("a", "b"):
        save_vqgan(vqgan, tmp_path / name)
    for file in ("autoencoder.json", "autoencoder.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    before = fingerprint(vqgan)
    with torch.no_grad():
        vqgan.quant_conv.bias += 1e-3
    assert fingerprint(vqgan)["weights_sha256"] != before["weights_sha256"]


def test_what_does_not_fit_is_one_clear_error(vqgan, tmp_path):
    with pytest.raises(ValueError, match=r"autoencoder\.json' cannot be read"):
        load_vqgan(tmp_path)
    save_vqgan(vqgan, tmp_path)
    path, weights = tmp_path / "autoencoder.json", tmp_path / "autoencoder.safetensors"
    content, data = json.loads(path.read_text()), weights.read_bytes()

    path.write_text(json.dumps(content | {"config": content["config"] | {"n_embed": 32}}))
    with pytest.raises(ValueError, match=r"quantize.embedding.weight \(16, 3\) instead of \(32, 3\)"):
        load_vqgan(tmp_path)
    path.write_text(json.dumps(content | {"config": content["config"] | {"n_embet": 32}}))
    with pytest.raises(ValueError, match="n_embet"):
        load_vqgan(tmp_path)
    path.write_text("[")
    with pytest.raises(ValueError, match="not a JSON object"):
        load_vqgan(tmp_path)
    path.write_text(json.dumps({}))
    with pytest.raises(ValueError, match="lacks"):
        load_vqgan(tmp_path)

    path.write_text(json.dumps(content))
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_vqgan(tmp_path)
    weights.write_bytes(data[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="not those of its"):
        load_vqgan(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        load_vqgan(tmp_path)
