"""The README's commands, run in their order on a few photos: every stage does its real work, in miniature."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
MINIATURE = """
shards.hq_size=64 shards.samples_per_shard=4 shards.variants=4 autoencoder.network.ch=32
autoencoder.network.n_embed=32 denoiser.image_size=16 denoiser.lq_size=16 denoiser.channel_mult=[1,1]
denoiser.num_res_blocks=[1,1] training.num_steps=3 training.global_batch_size=4 training.micro_batch_size=4
training.validation_samples=2 training.lpips_weight=0.1 training.autoencoder.num_steps=3
training.autoencoder.global_batch_size=4 training.autoencoder.micro_batch_size=4
training.autoencoder.validation_samples=2 training.autoencoder.crop_size=32 promotion.min_images=2
promotion.min_photos=1
"""


def readme_commands() -> list[list[str]]:
    block = re.search(r"<!-- chain: begin.*?```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "README.md holds the chain between its markers"
    lines = [line for line in block[1].splitlines() if line and not line.startswith("#")]
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="module")
def chain(photos, tmp_path_factory, empty_mlflow_database):
    """All commands of the README, each with the recipe shrunk; returns the folder and what each one printed."""
    folder = tmp_path_factory.mktemp("chain")
    for name, part in (("training", ("astronaut", "coffee")), ("held_out", ("chelsea",))):
        (folder / "photos" / name).mkdir(parents=True)
        for photo in part:
            side = 96 if name == "held_out" else 192  # what is restored grows fourfold, pixel by pixel
            Image.open(photos / f"{photo}.png").crop((0, 0, side, side)).save(folder / "photos" / name / f"{photo}.png")
    (folder / "mlflow.db").write_bytes(empty_mlflow_database.read_bytes())
    said = {}
    for command in readme_commands():
        said[" ".join(command)] = run(command, folder)
    return folder, said


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    python, script, *arguments = command
    assert python == "python"
    if "--recipe" in arguments:
        arguments += MINIATURE.split()
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
    )  # fmt: skip


def environment() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}


def test_every_command_succeeds(chain):
    _, said = chain
    for command, done in said.items():
        # A gate may refuse a model of three steps (3), but nothing may fail.
        allowed = (0, 3) if "promote.py" in command else (0,)
        assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"


def test_what_the_chain_leaves_behind(chain):
    folder, _ = chain
    summary = json.loads((folder / "runs" / "evaluation" / "summary.json").read_text())
    assert len(summary["ranking"]) == 4
    assert set(summary["metrics"]["psnr_y"]["methods"]) == {"bicubic", "model"}
    report = (folder / "runs" / "evaluation" / "report.html").read_text()
    assert "data:image/" in report
    assert json.loads((folder / "runs" / "denoiser" / "registered.json").read_text())["version"] in (1, "1")
    with Image.open(next((folder / "restored").iterdir())) as restored:
        assert restored.size == (384, 384)


def test_running_a_command_again_reuses_its_work(chain):
    folder, _ = chain
    before = {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*.tar")}
    for command in readme_commands():
        if any(script in command[1] for script in ("make_pairs", "make_latents", "train.py")):
            done = run(command, folder)
            assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*.tar")} == before


BAD_INPUT = [
    ("pipelines/make_pairs.py --recipe realsr_x4_tiny --source nowhere --out x", 2, "source 'nowhere': does not exist"),
    ("pipelines/make_pairs.py --recipe relsr --source photos --out x", 2, "recipe 'relsr' does not exist; shipped"),
    ("pipelines/make_pairs.py --recipe realsr_x4_tiny --source photos --out x shards.sed=1", 2, "valid keys: hq_size"),
    ("pipelines/make_pairs.py --recipe realsr_x4_tiny --source photos --out data/pairs", 2, "holds another dataset"),
    ("pipelines/verify.py nowhere", 2, "no dataset.json there"),
    ("pipelines/make_latents.py --recipe realsr_x4_tiny --pairs nowhere --out x autoencoder.weights=y", 2, "'nowhere'"),
    ("training/train.py --recipe realsr_x4_tiny --data nowhere --out x", 2, "nowhere"),
    ("training/train_autoencoder.py --recipe realsr_x4_tiny --data nowhere --out x", 2, "nowhere"),
    (
        "evaluation/evaluate.py --recipe realsr_x4_tiny --model models:/none/1 --data data/pairs --out x",
        2,
        "models:/none/1",
    ),
    ("evaluation/promote.py --recipe realsr_x4_tiny --model realsr_x4_tiny --version 99", 2, "99"),
    ("evaluation/restore.py --model models:/realsr_x4_tiny@nobody photos --out x", 2, "nobody"),
]


@pytest.mark.parametrize(("line", "code", "expected"), BAD_INPUT)
def test_bad_input_is_one_clear_line(chain, line, code, expected):
    folder, _ = chain
    before = {path for path in folder.rglob("*") if "mlflow" not in path.name}
    script, *arguments = line.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert expected in errors[0]
    assert before <= set(folder.rglob("*")), "nothing that was there is lost"


def test_the_library_example_runs(photos):
    """The README's Python block, with official-style dictionaries from the golden arrays for the models."""
    import numpy as np
    import torch

    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "README.md shows the library"
    names: dict = {"hq_uint8": np.asarray(Image.open(photos / "chelsea.png"))[:64, :64]}
    names["lq_uint8"] = names["hq_uint8"][:13, :17]
    for prefix, file in (("", "swin_unet_sr.npz"), ("autoencoder_", "vqgan_f4.npz")):
        with np.load(ROOT / "tests" / "golden" / file) as golden:
            names[f"{prefix}params"] = json.loads(str(golden["config"]))
            names[f"{prefix}state_dict"] = {
                key.removeprefix("sd/"): torch.from_numpy(golden[key].astype(np.float32))
                for key in golden.files
                if key.startswith("sd/")
            }
    exec(compile(block[1], "README.md", "exec"), names)
    assert names["restored"].shape == (52, 68, 3)
    np.testing.assert_array_equal(names["degrade"].replay(names["hq_uint8"], names["pair"].record).lq, names["pair"].lq)
