"""What engines compute in, and which GPU is whose. What only CUDA does is imitated."""

import os

import pytest
import torch

from infra.cluster import Cluster
from infra.errors import UsageError
from training import engine
from training.config import TrainingConfig
from training.engine import autocast, build_engine, join_processes
from training.ray_launch import check_room


@pytest.fixture
def cuda_autocasts():
    """As within torch.autocast("cuda"), the one that DeepSpeed asks about and switches off."""
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_engine_computes_in_its_precision_whatever_surrounds_it(cuda_autocasts, zero_stage, precision):
    config = TrainingConfig(global_batch_size=2, micro_batch_size=2, zero_stage=zero_stage, precision=precision)
    processes = join_processes()
    network = torch.nn.Linear(4, 4)
    built = build_engine(network, config, processes)
    with autocast("bfloat16", processes.device)():
        y = built(torch.randn(2, 4))
    assert y.dtype == getattr(torch, precision)
    built.backward(y.float().square().mean())
    before = network.weight.detach().clone()
    built.step()
    assert network.weight.dtype == torch.float32
    assert not torch.equal(network.weight, before)
    assert network(torch.randn(2, 4)).dtype == getattr(torch, precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_is_in_the_precision_it_names(precision):
    with autocast(precision, torch.device("cpu"))():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, precision)


@pytest.mark.parametrize(("visible", "local_rank", "expected"), [(8, 3, 3), (1, 3, 0), (2, 3, 1)])
def test_a_process_takes_a_gpu_that_it_sees_and_deepspeed_the_same(monkeypatch, visible, local_rank, expected):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert engine._take_gpu(local_rank) == torch.device("cuda", expected)
    assert taken == [expected]
    assert os.environ["LOCAL_RANK"] == str(expected)


@pytest.mark.parametrize(
    ("workers", "gpus", "most"), [(3, 2, "2 GPUs"), (5, 0, "4 cores"), (2, 2, None), (None, 1, None)]
)
def test_ray_is_not_asked_for_more_workers_than_there_can_be(monkeypatch, capsys, workers, gpus, most):
    found = Cluster(num_workers=4, num_gpus=gpus, cores_of_smallest_node=4)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if most is None:
        check_room(workers, found)
    else:
        with pytest.raises(UsageError, match=f"--workers {workers}: this machine has {most} for as many"):
            check_room(workers, found)
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")  # it may grow
    check_room(workers, found)
    assert (f"the cluster has {most} now; waiting for more" in capsys.readouterr().err) == (most is not None)
