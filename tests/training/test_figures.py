"""What a run reports about itself."""

import json

import numpy as np
import pytest
import torch

from resshift.metrics import psnr_y
from tests.conftest import GOLDEN
from training.engine import Processes
from training.figures import Figures
from training.flops import Utilisation, matmul_ceiling
from training.image_grid import image_grid

ALONE = Processes(0, 1, 0, torch.device("cpu"))


def test_averages_are_over_everything_since_the_last_report():
    figures = Figures(ALONE)
    for value in (1.0, 2.0, 6.0):
        figures.add(loss=torch.tensor(value))
    figures.step_done(8, 0.0, lr=0.5)
    report = figures.collect(skipped_steps=1)
    assert (report["loss"], report["lr"], report["skipped_steps"]) == (3.0, 0.5, 1)
    figures.add(loss=torch.tensor(10.0))
    assert figures.collect()["loss"] == 10.0


def test_the_loss_of_each_timestep_is_kept_apart():
    figures = Figures(ALONE)
    figures.add_indexed("loss_t", torch.tensor([0, 2, 2]), torch.tensor([1.0, 2.0, 4.0]), 4)
    figures.add_indexed("loss_t", torch.tensor([2, 0]), torch.tensor([6.0, 3.0]), 4)
    report = figures.collect()
    assert (report["loss_t0"], report["loss_t2"]) == (2.0, 4.0)
    assert "loss_t1" not in report, "no sample met this timestep"


def test_validation_and_saving_are_not_training_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    figures = Figures(ALONE)
    now[0] += 2.0
    figures.step_done(10, waited_seconds=0.5)
    with figures.clock_stopped():
        now[0] += 100.0
    report = figures.collect()
    assert report["samples_per_second"] == 5.0
    assert report["data_wait_share"] == 0.25


def test_utilisation_is_operations_done_of_those_that_could_be(monkeypatch):
    monkeypatch.setattr("training.flops.matmul_ceiling", lambda device, dtype: 1e9)
    assert Utilisation(2_000_000, "float32", ALONE)(50.0) == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ceiling_is_a_speed(dtype):
    assert 1e8 < matmul_ceiling(torch.device("cpu"), dtype) < 1e15


def test_psnr_y_is_what_evaluation_reports():
    with np.load(GOLDEN / "metrics.npz") as golden:
        for number, row in enumerate(json.loads(str(golden["rows"]))):
            found = psnr_y(golden[f"restored{number}"], golden[f"hq{number}"])
            assert found == pytest.approx(row["psnry"], abs=1e-3)


def test_a_grid_shows_small_images_as_large_as_their_neighbours():
    lq, hq = np.zeros((2, 3, 3), np.uint8), np.full((8, 12, 3), 200, np.uint8)
    lq[0, 0] = 255
    grid = image_grid(("LQ", "HQ"), [(lq, hq), (lq, hq)])
    assert grid.shape == (18 + 2 * (8 + 4), 4 + 2 * (12 + 4), 3)
    cell = grid[18:26, 4:16]
    assert (cell[:4, :4] == 255).all()
    assert (cell[4:] == 0).all()
    assert (grid[18:26, 20:32] == 200).all()
