"""SIGTERM before the first step: what starts up is finished, then the run saves and leaves."""

import os
import signal
from contextlib import contextmanager

import pytest

from tests.training.conftest import toy_recipe
from training import denoiser_run
from training.denoiser_run import run_training


def test_sigterm_while_mlflow_is_set_up_waits_for_the_first_step(latents, tmp_path, mlflow_store, monkeypatch, capsys):
    track = denoiser_run.track

    @contextmanager
    def track_and_be_told_to_go(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        with track(*arguments) as tracker:
            yield tracker

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(denoiser_run, "track", track_and_be_told_to_go)
        with pytest.raises(SystemExit) as left:
            run_training(toy_recipe(num_steps=3), str(latents), str(tmp_path))
    assert left.value.code == 143
    assert "stopped by SIGTERM, saved at step 1;" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert "registered" in run_training(toy_recipe(num_steps=3), str(latents), str(tmp_path))
