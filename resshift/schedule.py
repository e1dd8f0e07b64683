"""The noise schedule eta_1 < ... < eta_T of the paper, in float64.

The paper counts steps 1..T; here an index runs 0..T-1, so index 0 is the paper's step 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor


def _check_number(name: str, value: float, low: float, high: float, *, low_open: bool, remedy: str) -> float:
    """Return `value` as a float if it lies between the bounds, else raise a ValueError that names it."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < low or value > high or (low_open and value == low):
        raise ValueError(f"{name} is {value!r}; {remedy}")
    return float(value)


def _check_num_steps(num_steps: int) -> int:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps is {num_steps!r}; give a whole number of at least 1")
    return num_steps


@dataclass(frozen=True, eq=False)
class EtaSchedule:
    """How far, and how noisily, each step shifts the HQ image towards the LQ one.

    Build one with `EtaSchedule.exponential`; the constructor takes the table itself.
    """

    sqrt_eta: Tensor
    """(T,) float64 on the CPU: sqrt(eta_t), strictly increasing, in (0, 1]."""

    kappa: float
    """Noise strength: the forward process has standard deviation kappa * sqrt(eta_t). At least 0."""

    def __post_init__(self) -> None:
        table = torch.as_tensor(self.sqrt_eta, dtype=torch.float64, device="cpu").clone()
        if table.ndim != 1 or len(table) < 1:
            raise ValueError(f"sqrt_eta has shape {tuple(table.shape)}; give one value per step, shape (T,)")
        inside = bool(((table > 0) & (table <= 1)).all())
        if not inside or not bool((table.diff() > 0).all()):
            raise ValueError(f"sqrt_eta is {table.tolist()}; give strictly increasing values in (0, 1]")
        object.__setattr__(self, "sqrt_eta", table)
        kappa = _check_number("kappa", self.kappa, 0.0, math.inf, low_open=False, remedy="give a number of at least 0")
        object.__setattr__(self, "kappa", kappa)

    @classmethod
    def exponential(
        cls,
        num_steps: int = 4,
        min_noise_level: float = 0.2,
        sqrt_eta_end: float = 0.99,
        kappa: float = 2.0,
        power: float = 0.3,
    ) -> EtaSchedule:
        """The paper's noise schedule: geometric, with the steps spread by a power.

        sqrt(eta_t) = sqrt(eta_1) * b_0 ** beta_t, with beta_t = ((t-1)/(T-1)) ** power * (T-1) and
        b_0 = (sqrt(eta_T) / sqrt(eta_1)) ** (1/(T-1)), where sqrt(eta_1) = min(min_noise_level/kappa, min_noise_level).

        Args:
            num_steps: T, at least 1. A single step starts straight from the end value.
            min_noise_level: standard deviation of the noise left after the first step, above 0.
            sqrt_eta_end: sqrt(eta_T), in (0, 1].
            kappa: noise strength, at least 0; 0 makes the process a noiseless straight line from HQ to LQ.
            power: how the steps are spread, above 0; smaller values put more of them near the LQ end.

        Raises:
            ValueError: a value lies outside its range, or the schedule would not increase.
        """
        steps = _check_num_steps(num_steps)
        noise = _check_number(
            "min_noise_level", min_noise_level, 0.0, math.inf, low_open=True, remedy="give a number above 0, e.g. 0.2"
        )
        end = _check_number("sqrt_eta_end", sqrt_eta_end, 0.0, 1.0, low_open=True, remedy="give a number in (0, 1]")
        strength = _check_number("kappa", kappa, 0.0, math.inf, low_open=False, remedy="give a number of at least 0")
        exponent = _check_number("power", power, 0.0, math.inf, low_open=True, remedy="give a number above 0, e.g. 0.3")
        if steps == 1:
            return cls(torch.tensor([end], dtype=torch.float64), strength)
        start = min(noise / strength, noise) if strength > 0 else noise
        if start >= end:
            raise ValueError(
                f"min_noise_level is {noise}; with kappa {strength} sqrt(eta) would start at {start:.4g}, "
                f"not below sqrt_eta_end = {end}; lower min_noise_level"
            )
        # Python floats rather than tensor powers: their last digits do not depend on the vector width of the CPU.
        growth = math.log(end / start)
        table = [start * math.exp(growth * (step / (steps - 1)) ** exponent) for step in range(steps)]
        return cls(torch.tensor(table, dtype=torch.float64), strength)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.sqrt_eta)

    @cached_property
    def eta(self) -> Tensor:
        """(T,) float64: share of the residual y_0 - x_0 that has been added up to step t."""
        return self.sqrt_eta**2

    @cached_property
    def eta_previous(self) -> Tensor:
        """(T,) float64: eta_{t-1}, with eta_0 = 0."""
        return torch.cat([self.eta.new_zeros(1), self.eta[:-1]])

    @cached_property
    def alpha(self) -> Tensor:
        """(T,) float64: alpha_t = eta_t - eta_{t-1}, the share that step t itself adds."""
        return self.eta - self.eta_previous

    @cached_property
    def posterior_variance(self) -> Tensor:
        """(T,) float64: kappa^2 * eta_{t-1} / eta_t * alpha_t; 0 at index 0."""
        return self.kappa**2 * self.eta_previous / self.eta * self.alpha

    @cached_property
    def posterior_coef_x_t(self) -> Tensor:
        """(T,) float64: eta_{t-1} / eta_t, weight of x_t in the posterior mean."""
        return self.eta_previous / self.eta

    @cached_property
    def posterior_coef_x_0(self) -> Tensor:
        """(T,) float64: alpha_t / eta_t, weight of x_0 in the posterior mean."""
        return self.alpha / self.eta


@dataclass(frozen=True)
class ScheduleConfig:
    """The `schedule` section of a recipe: the arguments of `EtaSchedule.exponential`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    num_steps: int = 4
    """T, the number of sampling (and training) steps; at least 1."""

    min_noise_level: float = 0.2
    """Standard deviation of the noise left after the first step; above 0. The paper: 0.2 for 4 steps, 0.04 for 15."""

    sqrt_eta_end: float = 0.99
    """sqrt(eta_T), in (0, 1]: close to 1, so that sampling can start from the LQ image."""

    kappa: float = 2.0
    """Noise strength; at least 0."""

    power: float = 0.3
    """How the steps are spread; above 0."""

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> EtaSchedule:
        """The schedule itself; ValueError when a value lies outside its range."""
        return EtaSchedule.exponential(
            num_steps=self.num_steps,
            min_noise_level=self.min_noise_level,
            sqrt_eta_end=self.sqrt_eta_end,
            kappa=self.kappa,
            power=self.power,
        )
