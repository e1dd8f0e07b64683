"""AdamW that never takes a step on a non-finite gradient.

Under ZeRO 1 and 2 DeepSpeed measures, clips and checks the gradient itself. At stage 0 in float32 it clips without
telling the norm and steps on NaN, so there the optimizer does the same three things, and says so through the two
attributes the engine already reads: `overflow` and `_global_grad_norm`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class GuardedAdamW(torch.optim.AdamW):
    """torch.optim.AdamW with clipping to `max_norm` (None: left to ZeRO) and a guard against NaN and infinity."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_norm: float | None,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)
        self.max_norm = max_norm
        self.overflow = False
        self._global_grad_norm = 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, or none (`overflow` is then True and the optimizer's state is as before)."""
        if self.max_norm is None:
            return super().step(closure)
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        if self.overflow:
            return None
        if self._global_grad_norm > self.max_norm:
            torch._foreach_mul_(gradients, self.max_norm / self._global_grad_norm)
        return super().step(closure)
