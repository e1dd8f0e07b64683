"""The Markov chain between an HQ and an LQ image: one function per equation of the paper.

B batch, C channels, H height, W width; x_0 the HQ image (or latent), y_0 the LQ one at the same size,
x_t the state at step index t. A step index runs 0..T-1 and is a (B,) integer tensor or one int for the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resshift.schedule import EtaSchedule


def _check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes differ: {listed}; give tensors of one shape (B, C, H, W)")


def _at(table: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
    """Value of a (T,) table at each sample's step, shaped (B, 1, 1, 1) to broadcast over `like`."""
    if isinstance(t, int):
        if not 0 <= t < len(table):
            raise ValueError(f"t is {t}; give step indices from 0 to {len(table) - 1}")
        return torch.full([1] * like.ndim, table[t].item(), dtype=like.dtype, device=like.device)
    index = torch.as_tensor(t, device=like.device)
    if index.is_floating_point() or index.ndim > 1 or (index.ndim == 1 and len(index) != len(like)):
        raise ValueError(
            f"t has dtype {index.dtype} and shape {tuple(index.shape)}; give one whole number or one per sample, "
            f"shape ({len(like)},)"
        )
    # Only where looking costs nothing: on an accelerator it would stall the queue at every training step.
    if index.device.type == "cpu" and bool(((index < 0) | (index >= len(table))).any()):
        raise ValueError(f"t is {index.tolist()}; give step indices from 0 to {len(table) - 1}")
    values = table.to(like.device, non_blocking=True)[index.long()].to(like.dtype)
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def q_sample(x_0: Tensor, y_0: Tensor, t: Tensor | int, noise: Tensor, schedule: EtaSchedule) -> Tensor:
    """Draw x_t from q(x_t | x_0, y_0) = N(x_0 + eta_t (y_0 - x_0), kappa^2 eta_t I) (equation 2).

    Args:
        x_0, y_0, noise: (B, C, H, W); noise is standard normal.
        t: step index, 0..T-1.

    Returns:
        (B, C, H, W)
    """
    _check_same_shape(x_0=x_0, y_0=y_0, noise=noise)
    eta = _at(schedule.eta, t, x_0)
    std = _at(schedule.kappa * schedule.sqrt_eta, t, x_0)
    return x_0 + eta * (y_0 - x_0) + std * noise


def prior_sample(y_0: Tensor, noise: Tensor, schedule: EtaSchedule) -> Tensor:
    """Draw x_T from N(y_0, kappa^2 eta_T I), where sampling starts. All tensors (B, C, H, W)."""
    _check_same_shape(y_0=y_0, noise=noise)
    return y_0 + _at(schedule.kappa * schedule.sqrt_eta, schedule.num_steps - 1, y_0) * noise


def posterior(x_0: Tensor, x_t: Tensor, t: Tensor | int, schedule: EtaSchedule) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_{t-1} | x_t, x_0, y_0) (equations 6 and 7).

    mean = eta_{t-1}/eta_t x_t + alpha_t/eta_t x_0;  variance = kappa^2 eta_{t-1}/eta_t alpha_t, which is 0 at index 0.

    Returns:
        mean and variance, both (B, C, H, W); the variance is a broadcast view.
    """
    _check_same_shape(x_0=x_0, x_t=x_t)
    mean = _at(schedule.posterior_coef_x_t, t, x_t) * x_t + _at(schedule.posterior_coef_x_0, t, x_t) * x_0
    variance = _at(schedule.posterior_variance, t, x_t).expand_as(x_t)
    return mean, variance


def scale_input(x_t: Tensor, t: Tensor | int, schedule: EtaSchedule) -> Tensor:
    """x_t / sqrt(kappa^2 eta_t + 1): unit variance for what the denoiser sees, if x_0 has it. Shape (B, C, H, W)."""
    return x_t / (schedule.kappa**2 * _at(schedule.eta, t, x_t) + 1).sqrt()
