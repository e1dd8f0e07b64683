"""LPIPS (Zhang et al. 2018) from the `lpips` package, with backbones that need no download from a model zoo.

`python -m resshift.perceptual` puts both backbones into the cache, from where they work without a network.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from resshift.perceptual_assets import backbone_path, fetch_backbones
from resshift.weights import read_weights

Net = Literal["alex", "vgg"]

MIN_SIZE = 32
"""Smallest side in pixels: below it AlexNet's pooling leaves nothing to compare."""

_torchvision_operators: list[torch.library.Library] = []


def define_torchvision_operators() -> None:
    """Make torchvision importable: where it and torch are of different builds, as a torchvision for CUDA beside a torch
    for CPUs, its own operators do not load, and it wants to know two of them."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        _load_torchvision_operators()
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _torchvision_operators.append(library)  # it lasts as long as its Python object


def _load_torchvision_operators() -> None:
    """Load the operators of the installed torchvision. Raises OSError if they are missing or of another build."""
    found = importlib.util.find_spec("torchvision")
    files = sorted(Path(found.origin).parent.glob("_C.*")) if found is not None and found.origin else []
    if not files:
        raise FileNotFoundError("torchvision has no operators")
    torch.ops.load_library(files[0])


class LPIPSMetric(nn.Module):
    """LPIPS distance of two images; frozen, but gradients flow to the images. Build it with `lpips_metric`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, restored: Tensor, hq: Tensor) -> Tensor:
        """Distance of each pair: (B, 3, H, W) in [-1, 1] twice -> (B,), 0 for equal images.

        Raises:
            ValueError: the shapes differ or are not RGB, or a side is shorter than 32 pixels.
        """
        if restored.shape != hq.shape or restored.ndim != 4 or restored.shape[1] != 3:
            raise ValueError(
                f"images have shapes {tuple(restored.shape)} and {tuple(hq.shape)}; give (B, 3, H, W) twice"
            )
        if min(restored.shape[2:]) < MIN_SIZE:
            raise ValueError(
                f"images are {restored.shape[2]}x{restored.shape[3]}; LPIPS needs at least {MIN_SIZE} pixels per side"
            )
        return self.network(restored, hq).flatten()


def lpips_metric(net: Net) -> LPIPSMetric:
    """LPIPS version 0.1 with the AlexNet or VGG16 backbone (LPIPS-alex, LPIPS-vgg); fetches it on first use.

    Raises:
        ValueError: the net is unknown.
        RuntimeError: the backbone is neither cached nor can be fetched.
    """
    if net not in get_args(Net):
        raise ValueError(f"net is {net!r}; give one of {', '.join(get_args(Net))}")
    trunk = read_weights(backbone_path(net))
    define_torchvision_operators()
    package = importlib.import_module("lpips")
    with torch.device("meta"), warnings.catch_warnings():
        # torchvision warns about lpips' way of asking for a network without weights.
        warnings.simplefilter("ignore")
        network = package.LPIPS(net=net, pretrained=False, pnet_rand=True, use_dropout=False, verbose=False)
    convolutions = [module for module in network.net.modules() if isinstance(module, nn.Conv2d)]
    for i, convolution in enumerate(convolutions):
        convolution.weight = nn.Parameter(trunk[f"{i}.weight"])
        convolution.bias = nn.Parameter(trunk[f"{i}.bias"])
    heads_file = Path(package.__file__ or "").parent / "weights" / "v0.1" / f"{net}.pth"
    heads = torch.load(heads_file, map_location="cpu", weights_only=True)
    for i, head in enumerate(network.lins):
        head.model[-1].weight = nn.Parameter(heads[f"lin{i}.model.1.weight"])
    network.scaling_layer = package.lpips.ScalingLayer()  # constants, lost on the meta device
    return LPIPSMetric(network)


if __name__ == "__main__":
    for path in fetch_backbones():
        print(path)
