"""What the fork server of `ranks` imports before it forks."""

import importlib
import os
import tempfile

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"

from training import autoencoder_run, denoiser_run, engine, one_voice  # noqa: F401

engine._import_deepspeed()
importlib.import_module("torch._dynamo")  # the first use of meta tensors does, which takes two seconds
tempfile.tempdir = None  # asked for by that import; each process has a TMPDIR of its own
