"""Learning rate, average of the weights, optimizer, noise, configuration."""

import itertools
import json
import math

import pytest
import torch
from pydantic import ValidationError

from infra.errors import UsageError
from tests.training.conftest import toy_recipe
from training.config import AutoencoderTrainingConfig, TrainingConfig
from training.ema import Ema
from training.engine import plan_batches, poisoned
from training.loss import draw_noise
from training.lr import learning_rate
from training.optimizer import GuardedAdamW


def test_learning_rate_warms_up_then_follows_half_a_cosine():
    config = TrainingConfig(num_steps=101, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.2)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_paper_is_the_default():
    config = TrainingConfig()
    assert (config.num_steps, config.global_batch_size, config.ema_decay) == (400_000, 96, 0.999)
    assert (config.learning_rate, config.min_learning_rate, config.warmup_steps) == (5e-5, 2e-5, 5000)


def test_ema_is_the_weighted_mean_of_the_weights():
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    ema, expected = Ema(module, decay=0.5), 0.0
    for n, value in enumerate((1.0, 3.0, -2.0, 8.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)):
        module.weight.data.fill_(value)
        ema.update(module)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    averaged = ema.onto(torch.nn.Linear(1, 1, bias=False))
    assert averaged.weight.item() == pytest.approx(expected, rel=1e-6)
    assert not averaged.weight.requires_grad


def test_ema_of_bfloat16_weights_is_float32():
    ema = Ema(torch.nn.Linear(2, 2).bfloat16(), decay=0.9)
    assert {value.dtype for value in ema.average.values()} == {torch.float32}


def test_guarded_adamw_steps_like_adamw_and_not_on_nan():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(4, 4) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    guarded = GuardedAdamW(ours.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.01, max_norm=0.5)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    for module, optimizer in ((ours, guarded), (theirs, plain)):
        (module(torch.ones(3, 4)) ** 2).sum().backward()
        if optimizer is plain:
            norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    assert guarded._global_grad_norm == pytest.approx(float(norm))

    before = ours.weight.clone()
    ours.weight.grad[0, 0] = math.nan
    guarded.step()
    assert guarded.overflow
    assert torch.equal(ours.weight, before)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_non_finite_loss_poisons_the_gradient_and_a_finite_one_does_not(value):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    poisoned((x * 3).sum()).backward()
    assert x.grad.tolist() == [3.0, 3.0]
    x.grad = None
    poisoned((x * 3).sum() + value).backward()
    assert x.grad.isnan().all()


def test_noise_follows_from_seed_step_and_slot_alone():
    t, noise = draw_noise(7, 3, [0, 1, 2, 3], (2, 4, 4), num_steps=15)
    t_part, noise_part = draw_noise(7, 3, [2, 3], (2, 4, 4), num_steps=15)
    assert torch.equal(noise[2:], noise_part)
    assert torch.equal(t[2:], t_part)
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, draw_noise(7, 4, [0, 1, 2, 3], (2, 4, 4), 15)[1])
    steps, _ = draw_noise(0, 0, list(range(600)), (1,), num_steps=4)
    assert torch.bincount(steps, minlength=4).min() > 110


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"global_batch_size": 10, "micro_batch_size": 4}, "10 is not a multiple of micro_batch_size 4"),
        ({"min_learning_rate": 1.0}, "min_learning_rate 1 is above learning_rate 0.001"),
        ({"lpips_weight": 0, "mse_weight": 0}, "mse_weight and lpips_weight are both 0"),
        ({"zero_stage": 3}, "training.zero_stage"),
        ({"ema_decay": 1.0}, "training.ema_decay"),
        ({"learning_rat": 1.0}, "training.learning_rat: unknown key; valid keys: num_steps, global_batch_size"),
        ({"autoencoder": {"crop": 1}}, "training.autoencoder.crop: unknown key; valid keys: .*crop_size"),
    ],
)
def test_a_wrong_value_is_one_line(values, expected):
    with pytest.raises(UsageError, match=expected) as error:
        toy_recipe(**values).section("training", TrainingConfig)
    assert "\n" not in str(error.value)


def test_configurations_survive_json():
    for config in (TrainingConfig(), AutoencoderTrainingConfig()):
        assert type(config).model_validate(json.loads(config.model_dump_json())) == config
    with pytest.raises(ValidationError):
        TrainingConfig().num_steps = 3


def test_batches_are_cut_for_the_processes():
    config = TrainingConfig(global_batch_size=96, micro_batch_size=12)
    assert [(p.micro, p.micro_steps) for p in (plan_batches(config, n) for n in (1, 8, 16))] == [
        (12, 8),
        (12, 1),
        (6, 1),
    ]
    with pytest.raises(UsageError, match="96 does not divide among 7 processes"):
        plan_batches(config, 7)
