"""Time of one optimizer step of a full-size recipe, part by part, against the same step with parts taken back.

    python benchmarks/training.py [--recipe realsr_x4] [--micro 1] [--steps 2] [--only NAME ...]

Synthetic shards (crops of the photos that scikit-image ships) are written once, as pairs and as latents of an untrained
autoencoder. Each variant builds the real task, loader, DeepSpeed engine and loss, takes one step to warm up (and to
compile) and then `--steps` timed ones of one micro batch, with the device's queue drained between the parts. Reported
is the quickest of them, since other work on the machine can only make a step longer. Utilisation is the operations of
forward and backward (torch.utils.flop_counter) over the time of the step, against the best square matrix product in the
variant's precision, measured in the same run.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# This file has the package's name: drop its folder from the path, or it would be imported instead.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from evaluation.evaluator import device_words  # noqa: E402
from infra.recipe import Recipe, digest, load_recipe  # noqa: E402
from pipelines.autoencoder import AutoencoderConfig  # noqa: E402
from pipelines.codec import encode_png  # noqa: E402
from pipelines.dataset import SCHEMA_VERSION, freeze_plan  # noqa: E402
from pipelines.shard import encode_json, encode_npy, make_shard, sample_key  # noqa: E402
from resshift.vqgan import VQGAN  # noqa: E402
from resshift.weights import fingerprint, save_vqgan  # noqa: E402
from training.checkpoint import Checkpoints  # noqa: E402
from training.denoiser_task import DenoiserTask, open_task  # noqa: E402
from training.ema import Ema  # noqa: E402
from training.engine import Processes, autocast, build_engine, join_processes, poisoned  # noqa: E402
from training.flops import matmul_ceiling, sample_flops  # noqa: E402
from training.loader import BatchLoader  # noqa: E402
from training.loss import denoising_loss  # noqa: E402
from training.order import SampleOrder  # noqa: E402

PARTS = ("data", "encode", "forward", "decode + LPIPS", "backward", "optimizer")
SHARDS, PER_SHARD = 8, 32
CEILING_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Variant:
    """The recipe with something changed; `data` is "latents" or "pairs"."""

    name: str
    data: str
    overrides: tuple[str, ...]


PLAIN = ("training.compile=false", "training.precision=float32", "training.channels_last=false")
WITHOUT_LPIPS = ("training.lpips_weight=0",)
VARIANTS = (
    Variant("without LPIPS, plain", "pairs", (*WITHOUT_LPIPS, *PLAIN)),
    Variant("without LPIPS, without compile", "latents", (*WITHOUT_LPIPS, PLAIN[0])),
    Variant("plain: pairs, float32, NCHW, no compile", "pairs", PLAIN),
    Variant("without compile", "latents", PLAIN[:1]),
    Variant("without compile, pairs encoded in the step", "pairs", PLAIN[:1]),
    Variant("without compile, float32", "latents", PLAIN[:2]),
    Variant("without compile, NCHW", "latents", (PLAIN[0], PLAIN[2])),
    Variant("without compile, LPIPS on a quarter (lpips_crop)", "latents", ("training.lpips_crop=32", PLAIN[0])),
    Variant("without LPIPS", "latents", WITHOUT_LPIPS),
    Variant("as the recipe says", "latents", ()),
)


class Clock:
    """Seconds of each part of a step; a part inside another is taken out of it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        outer, self._inner = self._inner, 0.0
        began = self._now()
        yield
        took = self._now() - began
        self.seconds[name] += took - self._inner
        self._inner = outer + took

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class TimedDecoder:
    """The autoencoder with a clock."""

    def __init__(self, vqgan: VQGAN, clock: Clock) -> None:
        self.vqgan, self.clock = vqgan, clock

    def unscale_latent(self, z: Tensor) -> Tensor:
        return self.vqgan.unscale_latent(z)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        with self.clock.part("decode + LPIPS"):
            return self.vqgan.decode(z, quantize)


class TimedPerceptual(nn.Module):
    """LPIPS with a clock."""

    def __init__(self, perceptual: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.perceptual, self.clock = perceptual, clock

    def forward(self, image: Tensor, hq: Tensor) -> Tensor:
        with self.clock.part("decode + LPIPS"):
            return self.perceptual(image, hq)


def write_datasets(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Pair shards and latent shards of the recipe's shapes; the latents are noise, of which no time depends."""
    from skimage import data

    photos = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    size, network = int(recipe.raw["shards"]["hq_size"]), recipe.section("autoencoder", AutoencoderConfig).network
    assert network is not None, "a recipe in latent space"
    torch.manual_seed(0)
    vqgan = VQGAN(network)
    save_vqgan(vqgan, folder / "latents" / "autoencoder")
    rng = np.random.default_rng(0)
    latent = (network.embed_dim, size // vqgan.downscale, size // vqgan.downscale)
    for kind in ("pairs", "latents"):
        url = folder / kind
        for shard in range(SHARDS):
            samples = []
            for slot in range(PER_SHARD):
                photo = photos[slot % len(photos)]
                top, left = (int(rng.integers(side - size)) for side in photo.shape[:2])
                hq = np.ascontiguousarray(photo[top : top + size, left : left + size])
                lq = np.ascontiguousarray(hq[:: recipe.scale, :: recipe.scale])
                sample = {"__key__": sample_key(shard, slot), "hq.png": encode_png(hq), "lq.png": encode_png(lq),
                          "json": encode_json({})}  # fmt: skip
                for field in ("hq_latent", "lq_latent") if kind == "latents" else ():
                    sample[f"{field}.npy"] = encode_npy(rng.standard_normal(latent).astype(np.float16))
                samples.append(sample)
            make_shard(str(url), shard, samples)
        identity = {"kind": kind, "task": recipe.task, "scale": recipe.scale}
        if kind == "latents":
            identity["autoencoder"] = fingerprint(vqgan)
        plan = {"schema_version": SCHEMA_VERSION, "identity": identity, "plan_hash": digest(identity)}
        plan |= {"num_shards": SHARDS, "num_samples_planned": SHARDS * PER_SHARD, "recipe": dict(recipe.raw)}
        freeze_plan(str(url), plan)
    return {kind: folder / kind for kind in ("pairs", "latents")}


def measure(task: DenoiserTask, processes: Processes, steps: int) -> dict[str, float]:
    """Seconds of each part of the quickest of `steps` steps, after one that warms up ("first" is its time)."""
    config, clock = task.config, Clock(processes.device)
    network = task.build_denoiser().to(processes.device)
    engine, ema = build_engine(network, config, processes), Ema(network, config.ema_decay)
    if config.compile:
        network.compile()
    assert task.autoencoder is not None, "see write_datasets"
    task.place_autoencoder(processes.device)
    encode = task.autoencoder.encode

    def timed_encode(images: Tensor) -> Tensor:
        with clock.part("encode"):
            return encode(images)

    task.autoencoder.encode = timed_encode  # type: ignore[method-assign]
    perceptual = task.build_perceptual(processes.device)
    if perceptual is not None:
        perceptual = TimedPerceptual(perceptual, clock)
    taken = []
    with BatchLoader(task.dataset, task.order, task.fields, processes, 0, steps + 1) as loader:
        batches = iter(loader)
        for _ in range(steps + 1):
            clock.seconds.clear()
            with clock.part("data"):
                inputs = task.to_device(next(batches), processes.device)
            with clock.part("forward"):
                loss = denoising_loss(
                    engine, inputs, task.schedule, mse_weight=config.mse_weight, lpips_weight=config.lpips_weight,
                    decoder=TimedDecoder(task.autoencoder, clock), perceptual=perceptual,
                    autocast=autocast(config.precision, processes.device),
                )  # fmt: skip
            with clock.part("backward"):
                engine.backward(poisoned(loss.total))
            with clock.part("optimizer"):
                engine.step()
                ema.update(network)
            taken.append(dict(clock.seconds))
    quickest = min(taken[1:], key=lambda step: sum(step.values()))
    return {**{part: quickest.get(part, 0.0) for part in PARTS}, "first": sum(taken[0].values())}


def checkpoint_seconds(task: DenoiserTask, processes: Processes, out: str) -> dict[str, float]:
    """Seconds to write and to read a checkpoint of the denoiser with its moments and EMA at `out`, and its bytes."""
    network = task.build_denoiser().to(processes.device)
    engine, ema = build_engine(network, task.config, processes), Ema(network, task.config.ema_decay)
    engine.backward(poisoned(torch.stack([weight.square().mean() for weight in network.parameters()]).sum()))
    engine.step()
    checkpoints = Checkpoints(out, processes, task.recipe.raw, keep=1, metric="psnr_y")
    began = time.perf_counter()
    checkpoints.save(1, {"denoiser": engine}, {"ema": ema.state_dict()})
    written = time.perf_counter()
    saved = checkpoints.latest()
    assert saved is not None, "it was just written"
    checkpoints.load(saved, {"denoiser": engine})
    return {
        "save": written - began,
        "load": time.perf_counter() - written,
        "bytes": sum(saved.marker["files"].values()),
    }


def loader_speed(task: DenoiserTask, processes: Processes, workers: int, batch: int = 32) -> float:
    """Samples per second that one process reads and decodes while nobody computes."""
    order = SampleOrder([record.num_samples for record in task.dataset.shards], batch, seed=0)
    steps = 3 * SHARDS * PER_SHARD // batch
    began = time.perf_counter()
    with BatchLoader(task.dataset, order, task.fields, processes, 0, steps, workers=workers) as loader:
        for _ in loader:
            pass
    return steps * batch / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="realsr_x4")
    parser.add_argument("--micro", type=int, default=1, help="samples of the one micro batch of a step")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each variant")
    parser.add_argument("--only", nargs="*", default=[], help="names of variants")
    arguments = parser.parse_args()
    base = [f"training.global_batch_size={arguments.micro}", f"training.micro_batch_size={arguments.micro}",
            "training.validation_samples=0", "training.zero_stage=0"]  # fmt: skip
    processes = join_processes()
    side = CEILING_SIDE[processes.device.type]
    ceilings = {
        name: matmul_ceiling(processes.device, dtype, side)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    threads = torch.get_num_threads()
    machine = f"{device_words(processes.device.type)}, {threads} threads, torch {torch.__version__}"
    print(f"{machine}, micro batch of {arguments.micro}")
    print("matmul ceiling: " + ", ".join(f"{name} {value / 1e12:.2f} TFLOP/s" for name, value in ceilings.items()))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        data = write_datasets(load_recipe(arguments.recipe), Path(folder))
        weights = f"autoencoder.weights={data['latents'] / 'autoencoder'}"
        print("\n| loader alone | workers | samples/s |\n|---|---|---|")
        for name, overrides in (("latents", WITHOUT_LPIPS), ("latents and HQ", ())):
            task = open_task(load_recipe(arguments.recipe, [*base, *overrides]), str(data["latents"]))
            for workers in (1, 2, 4):
                print(f"| {name} | {workers} | {loader_speed(task, processes, workers):.0f} |", flush=True)
        task = open_task(load_recipe(arguments.recipe, [*base, *WITHOUT_LPIPS]), str(data["latents"]))
        found = checkpoint_seconds(task, processes, str(Path(folder, "run")))
        print(f"\ncheckpoint of {found['bytes'] / 2**30:.2f} GiB: written in {found['save']:.1f} s, "
              f"read in {found['load']:.1f} s", flush=True)  # fmt: skip
        print("\n| variant | " + " | ".join(PARTS) + " | step (s) | samples/s | utilisation | first step |")
        print("|---|" + "---|" * (len(PARTS) + 4))
        for variant in VARIANTS:
            if arguments.only and variant.name not in arguments.only:
                continue
            recipe = load_recipe(arguments.recipe, [*base, weights, *variant.overrides])
            task = open_task(recipe, str(data[variant.data]))
            seconds = measure(task, processes, arguments.steps)
            step = sum(seconds[part] for part in PARTS)
            used = sample_flops(task) * arguments.micro / step / ceilings[task.config.precision]
            cells = [f"{seconds[part]:.3f}" for part in PARTS]
            cells += [f"{step:.2f}", f"{arguments.micro / step:.3g}", f"{used:.0%}", f"{seconds['first']:.1f}"]
            print(f"| {variant.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
