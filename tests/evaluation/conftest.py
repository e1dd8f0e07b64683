"""A model so small that it restores in milliseconds, and small test sets cut from real photos."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from infra.recipe import load_recipe
from resshift import EtaSchedule, Restorer, SwinUNet
from resshift.swin_unet_config import SwinUNetConfig

SIZE = 64  # of HQ, pixels


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_restorer(seed: int = 0, scale: int = 4, task: str = "super_resolution") -> Restorer:
    """A random restorer on pixels. Its result lies close to the enlarged LQ image, as that of a trained one would."""
    torch.manual_seed(seed)
    config = SwinUNetConfig(
        image_size=16,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        swin_depth=1,
        swin_embed_dim=32,
        num_head_channels=32,
        lq_size=16,
        cond_mask=task == "inpainting",
    )
    denoiser = SwinUNet(config)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    return Restorer(denoiser, None, EtaSchedule.exponential(num_steps=2), scale, task)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """The folder of a tiny x4 model."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    tiny_restorer().save(folder)
    return folder


@pytest.fixture(scope="session")
def folder_pairs(photos, tmp_path_factory) -> Path:
    """A folder pair: hq/ and lq/ with nine pairs from three photos."""
    root = tmp_path_factory.mktemp("folder_pairs")
    for name in ("hq", "lq"):
        (root / name).mkdir()
    for photo in sorted(photos.iterdir()):
        pixels = np.asarray(Image.open(photo))
        for number in range(3):
            hq = pixels[32 * number : 32 * number + SIZE, 60 : 60 + SIZE]
            Image.fromarray(hq).save(root / "hq" / f"{photo.stem}-{number}.png")
            lq = cv2.resize(hq, (SIZE // 4, SIZE // 4), interpolation=cv2.INTER_AREA)
            Image.fromarray(lq).save(root / "lq" / f"{photo.stem}-{number}.png")
    return root


@pytest.fixture
def broken_pairs(folder_pairs, tmp_path) -> Path:
    """The same with one LQ file cut off, one missing, and one of a wrong size."""
    root = tmp_path / "broken"
    shutil.copytree(folder_pairs, root)
    names = sorted(path.name for path in (root / "lq").iterdir())
    cut = root / "lq" / names[0]
    cut.write_bytes(cut.read_bytes()[:200])
    (root / "lq" / names[1]).unlink()
    Image.new("RGB", (5, 5)).save(root / "lq" / names[2])
    return root


@pytest.fixture
def recipe():
    """realsr_x4 with the quick metrics only."""
    return load_recipe(
        "realsr_x4",
        [
            "evaluation.metrics=[psnr_y,ssim_y]",
            "evaluation.images_per_shard=4",
            "evaluation.bootstrap_resamples=1000",
            "promotion.gates=[{metric: psnr_y, min_improvement: 0}]",
            "promotion.min_images=5",
            "promotion.min_photos=5",
            "promotion.max_runtime_ratio=null",
        ],
    )
