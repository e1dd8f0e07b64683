"""`make demo`: the whole chain on one machine, by the commands that a cluster runs.

Photos are split into training and held-out ones, then every command of the chain runs as a person would type it, in the
folder `demo/`. Running it again resumes or re-uses what is done.
"""

import argparse
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.errors import JobError, UsageError

ROOT = Path(__file__).parents[1]
RECIPE = "realsr_x4_tiny"
TRAINING_PAIRS = 400  # enough for minutes of training, whatever the number of photos
TEST_PAIRS = 24
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SHIPPED_TRAINING = "rocket motorcycle retina immunohistochemistry hubble_deep_field colorwheel brick grass gravel moon"
SHIPPED_HELD_OUT = "chelsea coffee astronaut camera"
SHOWN_METRICS = {"psnr_y": "PSNR-Y (dB) ↑", "ssim_y": "SSIM-Y ↑", "lpips_alex": "LPIPS-alex ↓"}
PICTURE_ROWS = 8
EXIT_REFUSED = 3  # promote.py: a gate refused; the demo says so and goes on
VENV_BIN = Path(os.path.relpath(Path(sys.executable).parent))

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--source", help="folder of your own photos (default: those scikit-image ships)")
    parser.add_argument("--out", default="demo", help="where everything goes (default: demo)")
    arguments = parser.parse_args()
    try:
        demo(arguments.source, Path(arguments.out))
    except (UsageError, JobError) as error:
        console.print(f"[red]error:[/red] {error}", markup=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def demo(source: str | None, out: Path) -> None:
    """Run the chain below `out`. Raises UsageError for a source without enough photos, JobError if a command fails."""
    training, held_out = split_photos(source, out / "photos")
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{out}/mlflow.db")
    # Threads that wait by spinning slow everything down many times when another process wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    paths = {name: str(out / name) for name in ("pairs", "test_pairs", "autoencoder", "latents", "train", "evaluation")}
    pairs = [
        *("pipelines/make_pairs.py", "--recipe", RECIPE, "--source", str(training[0]), "--out", paths["pairs"]),
        f"shards.variants={-(-TRAINING_PAIRS // training[1])}",
    ]
    test_pairs = [
        *("pipelines/make_pairs.py", "--recipe", RECIPE, "--source", str(held_out[0]), "--out", paths["test_pairs"]),
        *("shards.seed=1", "shards.samples_per_shard=12", f"shards.variants={-(-TEST_PAIRS // held_out[1])}"),
    ]
    weights = f"autoencoder.weights={paths['autoencoder']}"
    with_recipe = ("--recipe", RECIPE)
    steps: list[tuple[str, list[str]]] = [
        ("synthesise training pairs", pairs),
        ("synthesise test pairs from the held-out photos", test_pairs),
        ("check the pairs", ["pipelines/verify.py", paths["pairs"]]),
        ("train the autoencoder", ["training/train_autoencoder.py", *with_recipe, "--data", paths["pairs"],
                                   "--out", paths["autoencoder"]]),
        ("pre-compute latents", ["pipelines/make_latents.py", *with_recipe, "--pairs", paths["pairs"],
                                 "--out", paths["latents"], weights]),
        ("train the denoiser", ["training/train.py", *with_recipe, "--data", paths["latents"],
                                "--out", paths["train"], weights]),
    ]  # fmt: skip
    seconds = [(title, run_step(title, command)) for title, command in steps]
    version = json.loads((out / "train" / "registered.json").read_text())["version"]
    model = f"models:/{RECIPE}/{version}"
    steps = [
        ("evaluate", ["evaluation/evaluate.py", *with_recipe, "--model", model, "--data", paths["test_pairs"],
                      "--out", paths["evaluation"]]),
        ("promote", ["evaluation/promote.py", *with_recipe, "--model", RECIPE, "--version", str(version)]),
        ("restore a photo", ["evaluation/restore.py", "--model", model, str(_lq_example(out)),
                             "--out", str(out / "restored"), "--overwrite"]),
    ]  # fmt: skip
    seconds += [(title, run_step(title, command)) for title, command in steps]
    _closing(out, str(version), seconds)


def run_step(title: str, command: list[str]) -> float:
    """Run one command of the chain, echoing it as a person would type it; returns seconds. Raises JobError."""
    console.print(f"\n[bold]{title}[/bold]")
    console.print(f"[dim]$ python {shlex.join(command)}[/dim]")
    started = time.monotonic()
    code = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=False).returncode
    if code not in (0, EXIT_REFUSED):
        raise JobError(f"'{command[0]}' ended with exit code {code}; mend what it says above and run the demo again")
    return time.monotonic() - started


def split_photos(source: str | None, folder: Path) -> tuple[tuple[Path, int], tuple[Path, int]]:
    """((source of training photos, how many), (source of held-out photos, how many)), the same at every call.

    Without `source`, photos that scikit-image ships are laid into folders; a folder of one's own is split by lists, a
    tenth held out, two of them where there are three, chosen by a hash of the name. Raises UsageError if there are
    fewer than two photos.
    """
    if source is None:
        return (
            (_lay_out(folder / "training", SHIPPED_TRAINING.split()), len(SHIPPED_TRAINING.split())),
            (_lay_out(folder / "held_out", SHIPPED_HELD_OUT.split()), len(SHIPPED_HELD_OUT.split())),
        )
    if not Path(source).is_dir():
        raise UsageError(f"SOURCE '{source}': is no folder; give a folder of photos")
    photos = sorted(path.resolve() for path in Path(source).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(photos) < 2:
        raise UsageError(f"SOURCE '{source}': holds {len(photos)} photos; at least 2 are needed, one is held out")
    by_hash = sorted(photos, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    held_out = set(by_hash[: max(min(2, len(photos) - 1), len(photos) // 10)])
    folder.mkdir(parents=True, exist_ok=True)
    choices: list[tuple[str, Callable[[Path], bool]]] = [
        ("training.txt", lambda path: path not in held_out),
        ("held_out.txt", lambda path: path in held_out),
    ]
    lists = []
    for name, wanted in choices:
        chosen = [str(path) for path in photos if wanted(path)]
        (folder / name).write_text("\n".join(chosen) + "\n")
        lists.append((folder / name, len(chosen)))
    return lists[0], lists[1]


def _lay_out(folder: Path, names: list[str]) -> Path:
    if folder.is_dir() and len(list(folder.iterdir())) == len(names):
        return folder
    import numpy as np
    from PIL import Image
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
        Image.fromarray(np.asarray(image)).save(folder / f"{name}.png")
    return folder


def _lq_example(out: Path) -> Path:
    """One held-out photo, a quarter of its size, to be restored as a user's own would be."""
    from PIL import Image

    held_out = out / "photos" / "held_out"
    listed = out / "photos" / "held_out.txt"
    photo = min(held_out.iterdir()) if held_out.is_dir() else Path(listed.read_text().splitlines()[0])
    target = out / "photos" / f"small_{photo.stem}.png"
    if not target.exists():
        with Image.open(photo) as image:
            image.convert("RGB").resize((image.width // 4, image.height // 4), Image.Resampling.BICUBIC).save(target)
    return target


def _closing(out: Path, version: str, seconds: list[tuple[str, float]]) -> None:
    """What was reached, as it is, and where to look."""
    summary: dict[str, Any] = json.loads((out / "evaluation" / "summary.json").read_text())
    table = Table(title=f"{len(summary['ranking'])} crops of held-out photos", title_justify="left")
    table.add_column("")
    for name in SHOWN_METRICS:
        table.add_column(SHOWN_METRICS[name], justify="right")
    for method, label in (("bicubic", "LQ enlarged bicubically"), ("model", f"{RECIPE} version {version}")):
        table.add_row(label, *(f"{summary['metrics'][name]['methods'][method]['mean']:.4f}" for name in SHOWN_METRICS))
    console.print()
    console.print(table)
    console.print(f"The model learned for minutes from {TRAINING_PAIRS} small crops; the figures are what they are.\n")
    promoted = _champion()
    if promoted == version:
        standing = f"models:/{RECIPE}@champion is version {promoted}"
    else:
        standing = f"version {version} was not promoted (gates above); champion: {promoted or 'none'}"
    rows = {
        "picture": before_after(out),
        "report": out / "evaluation" / "report.html",
        "restored": out / "restored",
        "training pairs": out / "pairs" / "preview.png",
        "registered": f"{RECIPE} version {version}",
        "promotion": standing,
        "MLflow": f"{VENV_BIN / 'mlflow'} ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}",
        "time": ", ".join(f"{title} {duration:.0f} s" for title, duration in seconds),
    }
    for label, value in rows.items():
        console.print(f"[bold]{label:<15}[/bold] {value}")


def before_after(out: Path) -> Path:
    """A picture of a few test images, spread over the photos: LQ enlarged bicubically, restored, HQ."""
    from PIL import Image

    restored = {path.stem: path for path in sorted((out / "evaluation" / "restored" / "model").glob("*.png"))}
    keys = list(restored)[2 :: max(1, len(restored) // PICTURE_ROWS)][:PICTURE_ROWS]
    rows = []
    for key in keys:
        with tarfile.open(out / "test_pairs" / "shards" / f"{key[:6]}.tar") as shard:
            lq, hq = (
                Image.open(io.BytesIO(_member(shard, f"{key}.{name}.png"))).convert("RGB") for name in ("lq", "hq")
            )
        rows.append((lq.resize(hq.size, Image.Resampling.BICUBIC), Image.open(restored[key]).convert("RGB"), hq))
    width, height = rows[0][2].size
    side = -(-len(rows) // 2)  # two columns of rows
    sheet = Image.new("RGB", (2 * 3 * (width + 4) + 16, side * (height + 4)), "white")
    for number, images in enumerate(rows):
        for place, image in enumerate(images):
            left = (number // side) * (3 * (width + 4) + 16) + place * (width + 4)
            sheet.paste(image, (left, (number % side) * (height + 4)))
    path = out / "before_after.png"
    sheet.save(path)
    return path


def _member(shard: tarfile.TarFile, name: str) -> bytes:
    file = shard.extractfile(name)
    assert file is not None, "it was evaluated, so it is a file in its shard"
    return file.read()


def _champion() -> str | None:
    from infra.models import version_of  # MLflow takes seconds to import; the steps above do without it

    try:
        found = version_of(f"models:/{RECIPE}@champion")
    except UsageError:
        return None
    return found[1] if found else None


if __name__ == "__main__":
    main()
