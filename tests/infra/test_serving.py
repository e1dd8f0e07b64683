"""A registered version where it is used: a bare process, `mlflow models predict`, `mlflow models serve`."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import torch
from PIL import Image

from infra.models import register
from infra.server_process import answers, free_port
from infra.tracking import start_run
from resshift import EtaSchedule, Restorer, SwinUNet, SwinUNetConfig
from resshift.image_files import decode

pytestmark = pytest.mark.slow

TINY = SwinUNetConfig(
    image_size=8, model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(),
    swin_depth=1, swin_embed_dim=32, num_head_channels=32, lq_size=8,
)  # fmt: skip


def tiny(scale=1, **changes) -> Restorer:
    torch.manual_seed(0)
    config = SwinUNetConfig(**{**TINY.__dict__, **changes})
    return Restorer(SwinUNet(config), None, EtaSchedule.exponential(num_steps=2), scale)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def images(rng):
    """Two RGB images of different sizes."""
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((6, 5), (9, 4))]


@pytest.fixture
def models(tmp_path, mlflow_store):
    """Restorers by the URI of their registered champion: one of super-resolution, one of inpainting."""
    made = {"sr": tiny(scale=2), "inpaint": tiny(cond_mask=True)}
    for name, restorer in made.items():
        restorer.save(tmp_path / name)
        (tmp_path / name / "recipe.json").write_text("{}")
        with start_run("tests", "a run") as run:
            version = register(tmp_path / name, name, run_id=run.info.run_id)
        mlflow.MlflowClient().set_registered_model_alias(name, "champion", version)
    return {f"models:/{name}@champion": restorer.prepare() for name, restorer in made.items()}


def test_a_version_holds_all_that_describes_it(models):
    folder = Path(mlflow.artifacts.download_artifacts("models:/inpaint@champion"))
    bundle = next(folder.rglob("model.json")).parent
    assert {"denoiser.safetensors", "model.json", "recipe.json"} <= {path.name for path in bundle.iterdir()}
    assert not list(folder.rglob("*.pkl"))
    loaded = mlflow.pyfunc.load_model(str(folder))
    assert loaded.metadata.signature.inputs.input_names() == ["image", "mask"]
    assert loaded.metadata.signature.params.params[0].name == "seed"
    restored = loaded.predict(loaded.input_example)
    assert decode(restored["image"][0]).rgb.shape == (16, 16, 3)


def test_images_as_bytes_and_as_arrays(models, images):
    (sr, restorer), (inpaint, inpainter) = models.items()
    expected = [restorer(image, seed=5) for image in images]
    loaded = mlflow.pyfunc.load_model(sr)
    for column in ([png(image) for image in images], [text(png(image)) for image in images]):
        restored = loaded.predict(pd.DataFrame({"image": column}), params={"seed": 5})
        for data, wanted in zip(restored["image"], expected, strict=True):
            np.testing.assert_array_equal(decode(data).rgb, wanted)
    for column in (images, [image.tolist() for image in images]):
        restored = loaded.predict(pd.DataFrame({"image": column}), params={"seed": 5})
        for array, wanted in zip(restored["image"], expected, strict=True):
            np.testing.assert_array_equal(array, wanted)

    masks = [np.where(np.indices(image.shape[:2])[0] > 3, 255, 0).astype(np.uint8) for image in images]
    loaded = mlflow.pyfunc.load_model(inpaint)
    expected = [inpainter(image, mask=mask) for image, mask in zip(images, masks, strict=True)]
    files = loaded.predict(pd.DataFrame({"image": map(png, images), "mask": map(png, masks)}))["image"]
    arrays = loaded.predict(pd.DataFrame({"image": images, "mask": masks}))["image"]
    for data, array, wanted in zip(files, arrays, expected, strict=True):
        np.testing.assert_array_equal(decode(data).rgb, wanted)
        np.testing.assert_array_equal(array, wanted)


def test_a_file_comes_back_in_its_kind(models, rng):
    gray = png(rng.integers(0, 256, (5, 7), dtype=np.uint8))
    with_alpha = png(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8))
    loaded = mlflow.pyfunc.load_model("models:/sr@champion")
    restored = loaded.predict(pd.DataFrame({"image": [gray, with_alpha]}))["image"]
    assert [Image.open(io.BytesIO(data)).mode for data in restored] == ["L", "RGBA"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (b"no image", "row 0: the image is not an image"),
        ("no base64!", "row 0: text is taken for base64"),
        ([[[1.5, 2, 3]]], "row 0: holds float64"),
        ([[[256, 2, 3]]], "row 0: holds int64"),
        ([[[1, 2]]], r"row 0: image is uint8 \(1, 1, 2\)"),
        (None, "row 0: holds object"),
    ],
)
def test_what_is_no_image_is_named(cell, expected, models):
    loaded = mlflow.pyfunc.load_model("models:/sr@champion")
    with pytest.raises(ValueError, match=expected):
        loaded.predict(pd.DataFrame({"image": [cell]}))


def test_a_bare_process_loads_the_champion(models, images, tmp_path):
    """Away from the repository, and without the rooms that train, evaluate and prepare data."""
    np.save(tmp_path / "image.npy", images[0])
    program = (
        "import sys, mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model('models:/sr@champion')\n"
        "restored = model.predict({'image': [np.load('image.npy')]})['image'][0]\n"
        "np.save('restored.npy', restored)\n"
        "print(sorted({'training', 'evaluation', 'pipelines', 'degradations', 'infra'} & set(sys.modules)))\n"
        "print(sorted({'ray', 'deepspeed', 'albumentations', 'webdataset', 'boto3'} & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["[]", "[]"]
    np.testing.assert_array_equal(np.load(tmp_path / "restored.npy"), models["models:/sr@champion"](images[0]))


@pytest.mark.faults
def test_mlflow_models_predict(models, images, tmp_path):
    (tmp_path / "input.json").write_text(json.dumps({"dataframe_records": [{"image": text(png(images[0]))}]}))
    command = ["models", "predict", "-m", "models:/sr@champion", "--env-manager", "local", "-t", "json"]
    files = ["-i", str(tmp_path / "input.json"), "-o", str(tmp_path / "output.json")]
    ended = subprocess.run([mlflow_command(), *command, *files], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads((tmp_path / "output.json").read_text())["predictions"]
    restored = decode(base64.b64decode(row["image"])).rgb
    np.testing.assert_array_equal(restored, models["models:/sr@champion"](images[0]))


@pytest.mark.faults
def test_mlflow_models_serve(models, images, tmp_path):
    (sr, restorer), (inpaint, inpainter) = models.items()
    expected = [restorer(image, seed=2) for image in images]
    files, arrays = [text(png(image)) for image in images], [image.tolist() for image in images]
    params = {"params": {"seed": 2}}
    with served(sr, tmp_path) as ask:
        for payload in (
            {"dataframe_split": {"columns": ["image"], "data": [[file] for file in files]}},
            {"dataframe_records": [{"image": file} for file in files]},
            {"inputs": {"image": files}},
            {"instances": [{"image": file} for file in files]},
        ):
            rows = ask(payload | params)["predictions"]
            for row, wanted in zip(rows, expected, strict=True):
                np.testing.assert_array_equal(decode(base64.b64decode(row["image"])).rgb, wanted)
        for payload in ({"dataframe_split": {"columns": ["image"], "data": [[array] for array in arrays]}},
                        {"dataframe_records": [{"image": array} for array in arrays]},
                        {"inputs": {"image": arrays}}):  # fmt: skip
            rows = ask(payload | params)["predictions"]
            for row, wanted in zip(rows, expected, strict=True):
                np.testing.assert_array_equal(np.array(row["image"], np.uint8), wanted)
        refused = ask({"inputs": {"image": ["no base64!"]}}, status=400)
        assert "text is taken for base64" in json.dumps(refused)

    mask = np.where(np.indices(images[0].shape[:2])[0] > 3, 255, 0).astype(np.uint8)
    wanted = inpainter(images[0], mask=mask)
    with served(inpaint, tmp_path) as ask:
        (row,) = ask({"dataframe_records": [{"image": files[0], "mask": text(png(mask))}]})["predictions"]
        np.testing.assert_array_equal(decode(base64.b64decode(row["image"])).rgb, wanted)
        (row,) = ask({"dataframe_records": [{"image": arrays[0], "mask": mask.tolist()}]})["predictions"]
        np.testing.assert_array_equal(np.array(row["image"], np.uint8), wanted)


def mlflow_command() -> str:
    return str(Path(sys.executable).with_name("mlflow"))


@contextmanager
def served(uri: str, folder: Path):
    """A model behind `mlflow models serve` on loopback; yields a function that asks it."""
    port, log = free_port(), folder / "serve.log"
    options = ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "-w", "1"]
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where MLflow looks for uvicorn
    with log.open("wb") as output:
        process = subprocess.Popen(
            [mlflow_command(), "models", "serve", "-m", uri, *options],
            stdout=output, stderr=output, start_new_session=True, env={**os.environ, "PATH": beside},
        )  # fmt: skip

    def ask(payload: dict, status: int = 200) -> dict:
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=payload, timeout=60)
        assert answer.status_code == status, answer.text
        return answer.json()

    try:
        deadline = time.monotonic() + 90
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield ask
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # the server's own group: it starts a worker
            process.wait(timeout=20)
