"""Exponential moving average of a network's weights, in float32 whatever the network computes in."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Ema:
    """Average of all floating-point entries of a module's state dict; other entries are copied.

    The decay grows from 0.1 to `decay` over the first steps, min(decay, (1 + n)/(10 + n)), so that a short run is not
    dominated by its random initial weights (the same warm-up as in k-diffusion).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.average = {name: _master(value).clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average one optimizer step towards the module's present weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averages, values = [], []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                averages.append(self.average[name])
                values.append(_master(value))
            else:
                self.average[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1.0 - decay)

    def replace(self, name: str, value: Tensor, rows: Tensor | None = None) -> None:
        """Let one entry jump to a new value, for weights that were set and not learned.

        rows: boolean mask over its first dimension of those that were set; None for all.
        """
        if rows is None:
            self.average[name].copy_(value)
        else:
            self.average[name][rows] = value[rows]

    def onto(self, module: Network) -> Network:
        """Give a freshly built module of the same kind the averaged weights; frozen, in evaluation mode."""
        module.load_state_dict(self.average)
        module.eval().requires_grad_(False)
        return module

    def state_dict(self) -> dict[str, object]:
        """The average and how many steps are in it."""
        return {"average": self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over what `state_dict` returned. Raises ValueError if it belongs to another network."""
        average = state["average"]
        assert isinstance(average, dict)
        if set(average) != set(self.average):
            raise ValueError(f"EMA has other keys: {sorted(set(average) ^ set(self.average))[:3]}")
        for name, value in average.items():
            self.average[name].copy_(value)
        self.num_updates = int(state["num_updates"])  # type: ignore[call-overload]


def _master(value: Tensor) -> Tensor:
    value = value.detach()
    return value.float() if value.is_floating_point() else value
