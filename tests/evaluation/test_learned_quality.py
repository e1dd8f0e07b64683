"""MUSIQ and CLIP-IQA by the real package, where the extra `iqa` is installed (it is for non-commercial use).

Their weights cannot be had without a network: random ones of the full shapes stand in. What is tested is that our
figure is the one that pyiqa itself gives for the image's file.
"""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.learned_quality import PYIQA_NAMES, LearnedMetric
from resshift.perceptual import define_torchvision_operators

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pyiqa") is None, reason="pip install 'resshift-foundry[iqa]'"),
]


@pytest.fixture
def random_weights(monkeypatch, tmp_path):
    """Networks as they are before their weights are loaded; CLIP, which takes its shape from its file, in a file."""
    define_torchvision_operators()
    from clip.model import CLIP
    from pyiqa.archs import clip_model, musiq_arch

    torch.manual_seed(0)
    resnet_50 = CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12)
    example = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.int64)
    torch.jit.save(torch.jit.trace(resnet_50.eval(), example), tmp_path / "RN50.pt")
    monkeypatch.setattr(clip_model, "_download", lambda url, root: str(tmp_path / "RN50.pt"))
    monkeypatch.setattr(musiq_arch, "load_pretrained_network", lambda network, url, strict: None)


@pytest.mark.parametrize("name", PYIQA_NAMES)
def test_the_figure_is_that_of_the_package(name, photos, random_weights):
    torch.manual_seed(1)
    metric = LearnedMetric(name, torch.device("cpu"))
    figures = []
    for file in sorted(photos.glob("*.png")):
        image = np.asarray(Image.open(file))
        figures.append(metric(image))
        assert figures[-1] == pytest.approx(float(metric.network(str(file))), rel=1e-5)
    assert len(set(figures)) == len(figures) == 3
    assert np.isfinite(figures).all()
