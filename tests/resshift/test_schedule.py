import math

import numpy as np
import pytest
import torch

from resshift import EtaSchedule
from resshift.schedule import ScheduleConfig
from tests.resshift.golden import arrays


@pytest.mark.parametrize("case", range(4))
def test_golden(case):
    golden = arrays("schedules")
    num_steps, *rest = golden[f"case{case}_spec"].tolist()
    schedule = EtaSchedule.exponential(int(num_steps), *rest)
    for name, ours in {
        "sqrt_eta": schedule.sqrt_eta,
        "posterior_variance": schedule.posterior_variance,
        "posterior_coef_xt": schedule.posterior_coef_x_t,
        "posterior_coef_x0": schedule.posterior_coef_x_0,
    }.items():
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours, golden[f"case{case}_{name}"], rtol=0, atol=1e-12)


def test_tables_agree_with_each_other():
    schedule = EtaSchedule.exponential(num_steps=15, min_noise_level=0.04)
    assert schedule.num_steps == 15
    torch.testing.assert_close(schedule.alpha.cumsum(0), schedule.eta)
    torch.testing.assert_close(schedule.posterior_coef_x_t + schedule.posterior_coef_x_0, torch.ones(15).double())
    assert math.sqrt(schedule.eta[-1]) == pytest.approx(0.99)


def test_config_builds_the_same_schedule():
    built = ScheduleConfig(num_steps=15, min_noise_level=0.04).build()
    assert torch.equal(built.sqrt_eta, EtaSchedule.exponential(15, 0.04).sqrt_eta)


def test_single_step_and_zero_kappa_are_defined():
    assert EtaSchedule.exponential(num_steps=1).sqrt_eta.tolist() == [0.99]
    assert EtaSchedule.exponential(kappa=0.0).sqrt_eta[0] == 0.2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps", 0),
        ("num_steps", 2.5),
        ("min_noise_level", 0.0),
        ("min_noise_level", 5.0),
        ("sqrt_eta_end", 1.01),
        ("kappa", -1.0),
        ("kappa", math.nan),
        ("power", 0),
    ],
)
def test_a_bad_value_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}.*"):
        EtaSchedule.exponential(**{field: value})
    with pytest.raises(ValueError, match=field):
        ScheduleConfig(**{field: value})


def test_a_table_that_does_not_increase_is_refused():
    with pytest.raises(ValueError, match="strictly increasing"):
        EtaSchedule(torch.tensor([0.2, 0.1]), kappa=1.0)
