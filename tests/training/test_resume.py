"""A run goes on exactly where it was, in processes of its own, whatever their number is then."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.training.ranks import Fate, run_ranks, start, wait
from tests.training.test_denoiser import assert_same, saved_state

pytestmark = pytest.mark.slow

KEEP_ALL = ["training.checkpoint_every=2", "training.keep_checkpoints=9"]
KEEP_ALL_AUTOENCODER = ["training.autoencoder.checkpoint_every=1", "training.autoencoder.keep_checkpoints=9",
                        "training.autoencoder.linear_start=true"]  # fmt: skip
NO_GRADIENT = (
    "attn_1.k.bias",
    "discriminator/weights.safetensors:blocks.5.bias",
    "discriminator:blocks.5.bias.exp_avg",
)
"""Softmax takes out the one; inside the hinges real and reconstructed patches pull the other both ways alike."""


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


def begun(whole: Path, out: Path, step: int) -> Path:
    """A copy of what a finished run had left after `step` steps."""
    shutil.copytree(whole / "checkpoints" / f"step-{step:06d}", out / "checkpoints" / f"step-{step:06d}")
    return out


def assert_close(found: dict, expected: dict, relative: float, without: Sequence[str] = ()) -> None:
    """Every tensor to `relative` of its norm, the moments of AdamW and the averaged weights among them.

    without: parts of names of those whose gradient is nothing but rounding, which Adam turns into whole steps.
    """
    found, expected = merged(found), merged(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if any(part in name for part in without):
            continue
        distance = float((found[name].double() - value.double()).norm())
        assert distance <= relative * float(value.double().norm()) + 1e-12, f"{name}: {distance}"


def merged(state: dict) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, those of AdamW put together again from the pieces of any number of processes."""
    tensors, pieces = {}, {}
    for file, tree in state.items():
        if "/optimizer-" not in file:
            tensors |= {f"{file}:{name}": value for name, value in flat(tree)}
            continue
        for key, piece in tree.items():
            name, _, first = key.rpartition("@")
            for moment in ("exp_avg", "exp_avg_sq"):
                pieces.setdefault(f"{Path(file).parent}:{name}.{moment}", {})[int(first)] = piece[moment]
            tensors[f"{Path(file).parent}:{name}.step"] = torch.tensor(piece["step"])
    for name, parts in pieces.items():
        tensors[name] = torch.cat([parts[first] for first in sorted(parts)])
    return tensors


def flat(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif not isinstance(value, str) and value is not None:
            yield prefix + key, torch.as_tensor(value)


@pytest.mark.parametrize("zero_stage", [1, pytest.param(2, marks=pytest.mark.faults)])
def test_two_ranks_go_on_bit_for_bit_and_one_rank_to_rounding(latents, recipe_file, tmp_path, zero_stage):
    """2N steps on two ranks, against N + N on two, and against a third each on two, one and two."""
    whole, parts, changing = (tmp_path / name for name in ("whole", "parts", "changing"))
    options = ["--recipe", recipe_file, "--data", latents, f"training.zero_stage={zero_stage}", *KEEP_ALL, "--out"]
    run_ranks("train", [*options, whole], tmp_path, ranks=2)
    moments = [name for name in saved_state(whole, 6) if "optimizer-" in name]
    assert len(moments) == 2, "each process writes what it holds"

    run_ranks("train", [*options, begun(whole, parts, 4)], tmp_path, ranks=2)
    assert_same(saved_state(whole, 6), saved_state(parts, 6))

    alone = start("train", [*options, begun(whole, changing, 2)], tmp_path, fates={0: Fate("saved", 4)})
    assert wait(alone) == [-9]
    assert_close(saved_state(changing, 4), saved_state(whole, 4), 1e-4)
    run_ranks("train", [*options, changing], tmp_path, ranks=2)
    assert_close(saved_state(changing, 6), saved_state(whole, 6), 1e-4)


@pytest.mark.parametrize("zero_stage", [0, pytest.param(2, marks=pytest.mark.faults)])
@pytest.mark.parametrize(("micro", "relative", "without"), [(2, 1e-4, ()), (4, 1e-3, NO_GRADIENT)])
def test_the_autoencoder_goes_on_alike(pairs, recipe_file, tmp_path, zero_stage, micro, relative, without):
    """Both networks and both optimizers, the codebook's memory and counters.

    With micro batches of 4 those of one rank are larger than those of two, which cuts the batch otherwise.
    """
    whole, parts, changing = (tmp_path / name for name in ("whole", "parts", "changing"))
    options = ["--recipe", recipe_file, "--data", pairs, f"training.autoencoder.zero_stage={zero_stage}",
               f"training.autoencoder.micro_batch_size={micro}", *KEEP_ALL_AUTOENCODER, "--out"]  # fmt: skip
    run_ranks("train_autoencoder", [*options, whole], tmp_path, ranks=2)

    run_ranks("train_autoencoder", [*options, begun(whole, parts, 2)], tmp_path, ranks=2)
    assert_same(saved_state(whole, 4), saved_state(parts, 4))

    alone = start("train_autoencoder", [*options, begun(whole, changing, 1)], tmp_path, fates={0: Fate("saved", 3)})
    assert wait(alone) == [-9]
    assert_close(saved_state(changing, 3), saved_state(whole, 3), relative, without)
    run_ranks("train_autoencoder", [*options, changing], tmp_path, ranks=2)
    assert_close(saved_state(changing, 4), saved_state(whole, 4), relative, without)
