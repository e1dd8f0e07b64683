"""DeepSpeed: the process group, the device, and an engine around one network, under any launcher or none."""

import atexit
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import rendezvous

from infra.errors import JobError, UsageError
from resshift.precision import use_exact_float32
from training.config import OptimizationConfig
from training.launch import translate_slurm
from training.optimizer import GuardedAdamW

PATIENCE = timedelta(minutes=10)

Network = TypeVar("Network", bound=nn.Module)
Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those of the run."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: Any = None
    """Process group on the CPU for small agreements; None is the default group."""

    @property
    def is_main(self) -> bool:
        """True in the one process that writes, logs and talks."""
        return self.rank == 0


def world_size() -> int:
    """Processes of the run this one belongs to, as its launcher says."""
    translate_slurm()
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


@cache
def join_processes() -> Processes:
    """Join the process group that the launcher describes, or form a group of one; left when the process ends."""
    size = world_size()
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    os.environ["LOCAL_RANK"] = str(local_rank)  # DeepSpeed insists on it
    use_exact_float32()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        device = _take_gpu(local_rank)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise it goes looking, and talks about it
        device = torch.device("cpu")
    if not dist.is_initialized():
        store = meeting_store()
        dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    control = dist.new_group(backend="gloo") if on_gpu else None  # agreements must not queue behind the GPU's work
    return Processes(rank, size, local_rank, device, control)


def _take_gpu(local_rank: int) -> torch.device:
    """The GPU of this process among those it sees. Slurm may show each process its own alone, as number 0."""
    number = local_rank % torch.cuda.device_count()
    torch.cuda.set_device(number)
    os.environ["LOCAL_RANK"] = str(number)  # DeepSpeed takes the GPU of this number
    return torch.device("cuda", number)


@cache
def meeting_store() -> dist.Store:
    """Where the processes of the run find one another. Raises JobError if the first one does not answer."""
    if world_size() == 1:
        return dist.HashStore()  # in memory: needs no free port
    try:
        store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    except (dist.DistError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise JobError(f"MASTER_ADDR: the first process does not answer at {where} ({error})") from error
    return store


def barrier(processes: Processes) -> None:
    """Wait until every process is here."""
    if processes.world_size > 1:
        dist.barrier(group=processes.control)


def from_main(processes: Processes, value: Any) -> Any:
    """The value the main process holds, in every process."""
    if processes.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=processes.control)
    return box[0]


def broadcast_from_main(processes: Processes, value: Tensor) -> Tensor:
    """The main process's tensor in every process; all must call it with one shape and dtype."""
    if processes.world_size > 1:
        dist.broadcast(value, src=0)
    return value


def place(network: Network, device: torch.device, channels_last: bool) -> Network:
    """Move a network to a device, with its convolution weights in channels_last order if asked."""
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def autocast(precision: str, device: torch.device) -> Autocast:
    """A factory of contexts in which matrix products run in `precision`: float32, bfloat16 or float16."""
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=getattr(torch, precision))


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is cut: `micro_steps` forward passes of `micro` samples in each process."""

    micro: int
    micro_steps: int


def plan_batches(config: OptimizationConfig, world_size: int, section: str = "training") -> BatchPlan:
    """Cut the global batch for this many processes. Raises UsageError if it does not divide."""
    share, rest = divmod(config.global_batch_size, world_size)
    if rest or not share:
        raise UsageError(
            f"{section}.global_batch_size: {config.global_batch_size} does not divide among {world_size} processes; "
            "choose a multiple of the process count"
        )
    most = min(share, config.micro_batch_size)
    micro = max(size for size in range(1, most + 1) if share % size == 0)
    return BatchPlan(micro=micro, micro_steps=share // micro)


def build_engine(network: nn.Module, config: OptimizationConfig, processes: Processes) -> Any:
    """Wrap a network in a DeepSpeed engine with AdamW; returns deepspeed.DeepSpeedEngine.

    Weights stay float32: mixed precision is autocast around the computation, so the network's own parameters are the
    master weights at every ZeRO stage here. The engine, and the network itself from here on, compute in
    `config.precision`, whatever surrounds a call.
    """
    deepspeed = _import_deepspeed()
    if config.precision != "float32":
        # Within the network: on a GPU DeepSpeed switches off an autocast that surrounds its engine.
        within = autocast(config.precision, processes.device)()
        network.forward = within(network.forward)  # type: ignore[operator]
    plan = plan_batches(config, processes.world_size)
    optimizer = GuardedAdamW(
        network.parameters(),
        lr=config.learning_rate,
        betas=config.adam_betas,
        weight_decay=config.weight_decay,
        max_norm=config.grad_clip if config.zero_stage == 0 else None,
    )
    settings = {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.micro,
        "gradient_accumulation_steps": plan.micro_steps,
        "gradient_clipping": config.grad_clip if config.zero_stage else 0.0,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)
    return engine


def set_learning_rate(engine: Any, value: float) -> None:
    """Set the learning rate of the next optimizer step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = value


def grad_norm(engine: Any) -> float:
    """Norm of the last step's whole gradient, before clipping; not finite if the step was skipped."""
    return float(engine.get_global_grad_norm())


def write_parameter(engine: Any, parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter of the engine's network, and the master copy that ZeRO holds of it."""
    if engine.zero_optimization():
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)
    with torch.no_grad():
        parameter.copy_(value)


def poisoned(loss: Tensor) -> Tensor:
    """The loss itself if it is finite, else one whose gradient is NaN in every process.

    A non-finite loss may still have a finite gradient. Making it NaN lets the gradient reduction carry the verdict:
    all processes skip the same step, without a collective of its own and without looking at the value here.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, float("nan"))


def _import_deepspeed() -> Any:
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    # On CPU DeepSpeed would compile a shared-memory collective with a C++ compiler (half a minute, and a failure where
    # there is none) to speed up reductions between ranks of one machine, which gloo does as well. This table of
    # compilable operators is filled lazily and meant to be edited; an empty one means that none is to be compiled.
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__ = {}
    logger.setLevel(logging.ERROR)  # skipped steps and progress are reported by us
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
    return deepspeed
