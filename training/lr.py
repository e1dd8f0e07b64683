"""Learning rate as a pure function of the step."""

import math

from training.config import OptimizationConfig


def learning_rate(step: int, config: OptimizationConfig) -> float:
    """Linear warm-up to `config.learning_rate`, then half a cosine to `config.min_learning_rate` at the last step.

    `step` counts from 0. The first step of a warm-up of W steps gets 1/W of the peak, so that none is wasted at zero.
    """
    peak, final = config.learning_rate, config.min_learning_rate
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    span = max(config.num_steps - 1 - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / span, 1.0)
    return final + 0.5 * (peak - final) * (1.0 + math.cos(math.pi * progress))
