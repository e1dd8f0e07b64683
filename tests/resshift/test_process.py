import pytest
import torch

from resshift import EtaSchedule, posterior, prior_sample, q_sample, sample, scale_input
from resshift.sampler import sample_steps
from tests.resshift.golden import arrays


def golden_process(num_steps):
    golden = arrays(f"process_T{num_steps}")
    spec = golden["spec"].tolist()
    return golden, EtaSchedule.exponential(int(spec[0]), *spec[1:])


@pytest.fixture(params=[4, 15])
def golden_and_schedule(request):
    return golden_process(request.param)


def close(ours, golden):
    torch.testing.assert_close(ours, golden, rtol=0, atol=1e-6)


def test_golden_equations(golden_and_schedule):
    g, schedule = golden_and_schedule
    close(q_sample(g["x_0"], g["y_0"], g["t"], g["noise"], schedule), g["x_t"])
    mean, variance = posterior(g["x_0"], g["x_t"], g["t"], schedule)
    close(mean, g["posterior_mean"])
    close(variance, g["posterior_variance"])
    close(scale_input(g["x_t"], g["t"], schedule), g["scaled_input"])


def stand_in_denoiser(x, t, lq):
    return 0.6 * x + 0.3 * lq + 0.05 * t.view(-1, 1, 1, 1)


def test_golden_trajectory(golden_and_schedule):
    g, schedule = golden_and_schedule
    y_0, noise = g["traj_y"], g["traj_noise"]
    states = list(sample_steps(stand_in_denoiser, y_0, schedule, noise, lq=y_0))
    close(torch.stack(states), g["traj"])
    close(sample(stand_in_denoiser, y_0, schedule, noise, lq=y_0), g["traj"][-1])


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    x_0, y_0 = torch.rand(2, 1, 1, 3, 3, generator=generator, dtype=torch.float64)
    return x_0, y_0, generator


def test_posterior_is_consistent_with_the_marginals(images):
    """Drawing x_t, then x_{t-1} from the posterior, is drawing x_{t-1} at once: same mean, same variance."""
    x_0, y_0, generator = images
    schedule = EtaSchedule.exponential(num_steps=6, kappa=1.5)
    n = 200_000
    for t in range(1, 6):
        noise = torch.randn(2, n, 1, 3, 3, generator=generator, dtype=torch.float64)
        x_t = q_sample(x_0.expand(n, -1, -1, -1), y_0.expand(n, -1, -1, -1), t, noise[0], schedule)
        mean, variance = posterior(x_0.expand(n, -1, -1, -1), x_t, t, schedule)
        x_previous = mean + variance.sqrt() * noise[1]
        expected_mean = x_0 + schedule.eta[t - 1] * (y_0 - x_0)
        expected_variance = schedule.kappa**2 * schedule.eta[t - 1]
        torch.testing.assert_close(x_previous.mean(0, keepdim=True), expected_mean, rtol=0, atol=0.015)
        torch.testing.assert_close(x_previous.var(0), expected_variance.expand(1, 3, 3), rtol=0.03, atol=0)


def test_posterior_composes_exactly_in_closed_form():
    """Var(x_{t-1}) = coef_x_t^2 Var(x_t) + posterior variance must give kappa^2 eta_{t-1}, and the means likewise."""
    s = EtaSchedule.exponential(num_steps=15, min_noise_level=0.04)
    composed = s.posterior_coef_x_t**2 * s.kappa**2 * s.eta + s.posterior_variance
    torch.testing.assert_close(composed, s.kappa**2 * s.eta_previous, rtol=0, atol=1e-12)
    torch.testing.assert_close(s.posterior_coef_x_t * s.eta, s.eta_previous, rtol=0, atol=1e-12)


def test_without_noise_the_chain_is_a_straight_line(images):
    x_0, y_0, _ = images
    schedule = EtaSchedule.exponential(num_steps=8, kappa=0.0)
    noise = torch.full_like(x_0, 7.0)
    for t in range(8):
        x_t = q_sample(x_0, y_0, t, noise, schedule)
        torch.testing.assert_close(x_t, x_0 + schedule.eta[t] * (y_0 - x_0))
        assert posterior(x_0, x_t, t, schedule)[1].max() == 0
    assert torch.equal(prior_sample(y_0, noise, schedule), y_0)


def test_x_T_is_centred_on_the_lq(images):
    _, y_0, generator = images
    schedule = EtaSchedule.exponential()
    many = y_0.expand(100_000, -1, -1, -1)
    x_T = prior_sample(many, torch.randn(many.shape, generator=generator, dtype=torch.float64), schedule)
    torch.testing.assert_close(x_T.mean(0, keepdim=True), y_0, rtol=0, atol=0.03)
    assert x_T.std(0).mean() == pytest.approx(2.0 * 0.99, rel=0.01)


@pytest.mark.parametrize("num_steps", [1, 4, 15])
def test_an_oracle_denoiser_gives_x_0_back(images, num_steps):
    x_0, y_0, _ = images
    restored = sample(lambda x, t: x_0, y_0, EtaSchedule.exponential(num_steps), torch.Generator().manual_seed(0))
    torch.testing.assert_close(restored, x_0, rtol=0, atol=1e-12)


def test_a_generator_makes_sampling_reproducible(images):
    _, y_0, _ = images
    runs = [
        sample(lambda x, t: 0.5 * x, y_0, EtaSchedule.exponential(), torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_bad_arguments_are_named(images):
    x_0, y_0, _ = images
    schedule = EtaSchedule.exponential()
    with pytest.raises(ValueError, match="noise has shape"):
        sample(lambda x, t: x, y_0, schedule, torch.zeros(4, *y_0.shape))
    for bad_t in (-1, 4, torch.tensor([0.5]), torch.tensor([0, 1])):
        with pytest.raises(ValueError, match=r"^t "):
            q_sample(x_0, y_0, bad_t, x_0, schedule)
    with pytest.raises(ValueError, match="y_0"):
        q_sample(x_0, y_0[..., :1], 0, x_0, schedule)
