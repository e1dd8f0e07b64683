"""How fast restoring is, and how much memory it takes. Method and results: benchmarks/restore.md.

python -m benchmarks.restore stages [--recipe realsr_x4] [--compile]   encode, T denoiser steps, decode; all settings
python -m benchmarks.restore precisions                                 which widths gain from bfloat16
python -m benchmarks.restore quality --model BUNDLE PHOTOS              what bfloat16 changes for a trained model
python -m benchmarks.restore memory                                     largest resident memory of the restore command
"""

import copy
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import nn

from evaluation.evaluator import device_words
from infra.recipe import load_recipe
from pipelines.autoencoder import AutoencoderConfig
from resshift import VQGAN, Restorer, ScheduleConfig, SwinUNet, SwinUNetConfig
from resshift.images import tensor_to_image
from resshift.precision import make_repeatable

app = typer.Typer(add_completion=False, help=__doc__)
REPEATS = 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NARROW = [  # networks whose own memory and time are little, so that those of the image show
    "autoencoder.network.ch_mult=[1,1,1]", "autoencoder.network.n_embed=64", "denoiser.channel_mult=[1,1,1]",
    "denoiser.swin_embed_dim=32", "schedule.num_steps=1",
]  # fmt: skip


def random_restorer(recipe: str, overrides: list[str] | None = None) -> Restorer:
    """The recipe's networks with random weights, none of them zero."""
    resolved = load_recipe(recipe, overrides)
    torch.manual_seed(0)
    network = resolved.section("autoencoder", AutoencoderConfig).network
    denoiser = SwinUNet(resolved.section("denoiser", SwinUNetConfig))
    autoencoder = None if network is None else VQGAN(network)
    for part in (denoiser, autoencoder):
        for parameter in () if part is None else part.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    schedule = resolved.section("schedule", ScheduleConfig).build()
    return Restorer(denoiser, autoencoder, schedule, resolved.scale, resolved.task).to(DEVICE)


def fastest(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several calls, after one to warm up."""
    seconds = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def stage_seconds(restorer: Restorer, side: int, batch: int) -> dict[str, float]:
    """Seconds of each stage for `batch` LQ images of side x side, and of all of it, by `restore_batch`."""
    generator = torch.Generator().manual_seed(0)
    lq = (torch.rand(batch, 3, side, side, generator=generator) * 2 - 1).to(restorer.device)
    noise = restorer.draw_noise(lq.shape, generator)
    large = torch.nn.functional.interpolate(lq, scale_factor=restorer.scale, mode="bicubic")
    autoencoder = restorer.autoencoder
    with torch.inference_mode():
        z = large if autoencoder is None else autoencoder.encode(large)
        t = torch.zeros(batch, dtype=torch.int64, device=lq.device)
        condition = torch.nn.functional.interpolate(lq, size=(z.shape[2] * restorer.denoiser.config.lq_factor,) * 2)
        found = {"step": fastest(lambda: restorer.denoiser(z, t, condition))}
        if autoencoder is not None:
            found["encode"] = fastest(lambda: autoencoder.encode(large))
            found["decode"] = fastest(lambda: autoencoder.decode(z))
        found["all"] = fastest(lambda: restorer.restore_batch(lq, noise))
    return found


def settings(plain: Restorer, compiled: bool) -> dict[str, Restorer]:
    """The same model in each setting, by name; the plain one first."""
    channels_last = copy.deepcopy(plain)
    for part in (channels_last.denoiser, channels_last.autoencoder):
        if part is not None:
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    halved = copy.deepcopy(channels_last)
    for part in (halved.denoiser, halved.autoencoder):
        if part is not None:
            part.bfloat16()
    if halved.autoencoder is not None:
        halved.autoencoder.quantize.float()
    found = {
        "float32": plain,
        "float32, channels_last": channels_last,
        "float32, channels_last, fused": copy.deepcopy(plain).prepare("float32"),
        "bfloat16, channels_last": halved,
        "bfloat16, channels_last, fused": copy.deepcopy(plain).prepare("bfloat16"),
    }
    if compiled:
        restorer = copy.deepcopy(plain).prepare("bfloat16")
        restorer.denoiser.compile()
        if restorer.autoencoder is not None:
            restorer.autoencoder.encoder.compile()
            restorer.autoencoder.decoder.compile()
        found["bfloat16, channels_last, fused, compiled"] = restorer
    return found


def levels(restorer: Restorer, lq: torch.Tensor, noise: torch.Tensor) -> np.ndarray:
    """The restored image in 8-bit levels."""
    return tensor_to_image(restorer.restore_batch(lq, noise)).astype(int)


@app.command()
def stages(
    recipe: str = "realsr_x4",
    side: Annotated[int, typer.Option(help="Side of the LQ image.")] = 64,
    batches: Annotated[str, typer.Option(help="Batch sizes to try when prepared.")] = "1,2",
    compiled: Annotated[bool, typer.Option("--compile", help="Also through torch.compile.")] = False,
) -> None:
    """Milliseconds of each stage, per image and per megapixel of the result, against plain float32."""
    plain = random_restorer(recipe)
    sides = f"{side}x{side} -> {side * plain.scale}x{side * plain.scale}"
    print(f"{recipe}: {sides}, {device_words(DEVICE)}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    generator = torch.Generator().manual_seed(0)
    lq = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    noise = plain.draw_noise(lq.shape, generator)
    expected, reference = levels(plain, lq, noise), None
    megapixels = (side * plain.scale) ** 2 / 1e6
    columns = ("setting", "batch", "encode", "one step", "decode", "ms per image", "ms per megapixel", "times plain")
    print(" | ".join((*columns, "levels max, mean")))
    for name, restorer in settings(plain, compiled).items():
        difference = np.abs(levels(restorer, lq, noise) - expected)
        for batch in map(int, batches.split(",")) if restorer.is_prepared else [1]:
            seconds = stage_seconds(restorer, side, batch)
            cells = [f"{seconds.get(part, 0.0) * 1e3 / batch:.0f}" for part in ("encode", "step", "decode")]
            each = seconds["all"] * 1e3 / batch
            reference = each if reference is None else reference
            ratio, far = reference / each, f"{difference.max()}, {difference.mean():.3f}"
            row = [name, batch, *cells, f"{each:.0f}", f"{each / megapixels:.0f}", f"{ratio:.2f}", far]
            print(" | ".join(map(str, row)), flush=True)


@app.command()
def precisions() -> None:
    """Seconds of float32 and bfloat16 for narrow and wide denoisers of the recipe realsr_x4_tiny."""
    for width in (32, 64, 96, 128, 160):
        overrides = [f"denoiser.model_channels={width}", f"denoiser.swin_embed_dim={2 * width}",
                     f"autoencoder.network.ch={width}", "denoiser.num_head_channels=32"]  # fmt: skip
        plain = random_restorer("realsr_x4_tiny", overrides)
        fast = copy.deepcopy(plain).prepare("bfloat16")
        seconds = [stage_seconds(restorer, 64, 1)["all"] for restorer in (plain, fast)]
        ratio = seconds[0] / seconds[1]
        print(f"{width} channels: float32 {seconds[0]:.3f} s, bfloat16 {seconds[1]:.3f} s, {ratio:.2f}x", flush=True)


@app.command()
def quality(
    photos: Path, model: Annotated[Path, typer.Option(help="Bundle folder of a trained model.")], crop: int = 128
) -> None:
    """Differences in 8-bit levels to plain float32, over crops of photos made small; and PSNR to the photos."""
    plain = Restorer.load(model, DEVICE)
    others = {name: Restorer.load(model, DEVICE).prepare(name) for name in ("float32", "bfloat16")}
    gains: dict[str, list[float]] = {name: [] for name in others}
    far: dict[str, list[np.ndarray]] = {name: [] for name in others}
    for seed, path in enumerate(sorted(photos.glob("*"))):
        hq = np.asarray(Image.open(path).convert("RGB"))[:crop, :crop]
        lq = np.asarray(Image.fromarray(hq).resize((crop // plain.scale,) * 2, Image.Resampling.BICUBIC))
        expected = plain(lq, seed)
        for name, restorer in others.items():
            restored = restorer(lq, seed)
            far[name].append(np.abs(restored.astype(int) - expected))
            gains[name].append(psnr(restored, hq) - psnr(expected, hq))
    for name, differences in far.items():
        every = np.stack(differences)
        within = (every <= 2).mean()
        print(f"prepared in {name}: largest {every.max()}, mean {every.mean():.3f}, within 2 levels {within:.1%}, "
              f"PSNR {np.mean(gains[name]):+.3f} dB ({len(every)} crops)")  # fmt: skip


def psnr(restored: np.ndarray, hq: np.ndarray) -> float:
    """Decibels between two uint8 images."""
    return float(-10 * np.log10(np.mean((restored.astype(float) - hq) ** 2) / 255**2))


@app.command()
def memory() -> None:
    """Largest resident memory of `restore` for an 8K result (x4) and for an 8K input (scale 1)."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        random_restorer("realsr_x4_tiny", NARROW).save(folder / "x4")
        random_restorer("realsr_x4_tiny", [*NARROW, "scale=1", "denoiser.lq_size=128"]).save(folder / "x1")
        rng = np.random.default_rng(0)
        for name, model, size in (
            ("96x54 -> 384x216", "x4", (96, 54)),
            ("1920x1080 -> 7680x4320", "x4", (1920, 1080)),
            ("7680x4320 -> 7680x4320", "x1", (7680, 4320)),
        ):
            small = rng.integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8)
            Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / "in.png")
            command = ["evaluation/restore.py", "--model", str(folder / model), str(folder / "in.png")]
            started = time.perf_counter()
            program = (
                "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
                "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
                "except SystemExit as end: code = end.code\n"
                "print(code or 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            ended = subprocess.run(
                [sys.executable, "-c", program, *command, "--out", str(folder / "out"), "--overwrite"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            code, kilobytes = ended.stdout.splitlines()[-1].split()
            seconds = time.perf_counter() - started
            print(f"{name}: {int(kilobytes) / 1024:.0f} MiB, {seconds:.0f} s, exit code {code}", flush=True)
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    make_repeatable()
    app()
