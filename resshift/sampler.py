"""Ancestral sampling along the reverse chain: from the LQ image to an HQ one in T steps.

B batch, C channels, H height, W width, T number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from resshift.process import posterior, prior_sample, scale_input
from resshift.schedule import EtaSchedule

Denoiser = Callable[..., Tensor]
"""denoiser(x_scaled (B, C, H, W), t (B,) int64, **conditions) -> prediction of x_0 (B, C, H, W)."""


def _noise_source(noise: Tensor | torch.Generator, y_0: Tensor, num_steps: int) -> Callable[[int], Tensor]:
    """A function that gives the k-th noise tensor (B, C, H, W): 0 for the prior, k for the k-th reverse step."""
    if isinstance(noise, torch.Generator):
        generator = noise

        def draw(_: int) -> Tensor:
            # Drawn where the generator lives and then moved: a CPU generator gives every device the same image.
            sample = torch.randn(y_0.shape, generator=generator, device=generator.device, dtype=torch.float32)
            return sample.to(y_0)

        return draw
    expected = (num_steps + 1, *y_0.shape)
    if tuple(noise.shape) != expected:
        raise ValueError(f"noise has shape {tuple(noise.shape)}; give (T+1, B, C, H, W) = {expected} or a generator")
    return lambda k: noise[k].to(y_0)


def sample_steps(
    denoiser: Denoiser, y_0: Tensor, schedule: EtaSchedule, noise: Tensor | torch.Generator, **conditions: Tensor | None
) -> Iterator[Tensor]:
    """Yield x_T, x_{T-1}, ..., x_0: the T + 1 states of one sampling run, each (B, C, H, W). See `sample`."""
    draw = _noise_source(noise, y_0, schedule.num_steps)
    x_t = prior_sample(y_0, draw(0), schedule)
    yield x_t
    for k, step in enumerate(reversed(range(schedule.num_steps)), start=1):
        t = torch.full((len(y_0),), step, dtype=torch.int64, device=y_0.device)
        x_0 = denoiser(scale_input(x_t, t, schedule), t, **conditions)
        mean, variance = posterior(x_0.to(x_t.dtype), x_t, t, schedule)
        x_t = mean + variance.sqrt() * draw(k) if step > 0 else mean
        yield x_t


@torch.no_grad()
def sample(
    denoiser: Denoiser, y_0: Tensor, schedule: EtaSchedule, noise: Tensor | torch.Generator, **conditions: Tensor | None
) -> Tensor:
    """Restore y_0: draw each x_{t-1} from the posterior, with what the denoiser predicts in the place of x_0.

    No gradients are kept.

    Args:
        denoiser: called once per step as `denoiser(x_scaled, t, **conditions)`; returns its prediction of x_0.
        y_0: (B, C, H, W), the LQ image or latent at the size of the result.
        schedule: the shifting schedule the denoiser was trained with.
        noise: (T+1, B, C, H, W) standard normal, index 0 for the prior and k for the k-th step (the last step adds
            none, so the last entry is not used), or a generator to draw it from.
        conditions: handed to the denoiser as they are.

    Returns:
        (B, C, H, W), the sampled x_0.

    Raises:
        ValueError: the noise does not have the shape above.
    """
    x_t = y_0
    for state in sample_steps(denoiser, y_0, schedule, noise, **conditions):
        x_t = state
    return x_t
