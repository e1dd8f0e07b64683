"""The bootstrap against what is known of means, and its behaviour where data are few or not independent."""

import numpy as np
import pytest

from evaluation.bootstrap import bootstrap_mean


def test_interval_agrees_with_the_normal_one_for_many_values(rng):
    values = rng.normal(0.3, 1.0, 800)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)


def test_covers_the_true_mean_about_as_often_as_it_says(rng):
    inside = 0
    for number in range(200):
        interval = bootstrap_mean(rng.exponential(1.0, 60), num_resamples=1000, seed=number)
        inside += interval.low <= 1.0 <= interval.high
    assert 0.87 <= inside / 200 <= 0.99


def test_is_reproducible_and_moves_with_the_values(rng):
    values = rng.normal(size=50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    shifted, plain = bootstrap_mean(values + 5, seed=3), bootstrap_mean(values, seed=3)
    assert shifted.low == pytest.approx(plain.low + 5)
    assert shifted.high == pytest.approx(plain.high + 5)


def test_constant_values_have_no_width():
    interval = bootstrap_mean(np.full(12, 0.25))
    assert interval.low == interval.high == interval.mean == 0.25


def test_copies_of_one_photo_do_not_make_the_interval_narrower(rng):
    photos = rng.normal(size=20)
    copies = np.repeat(photos, 10)
    groups = [f"photo{number}" for number in range(20) for _ in range(10)]
    alone, grouped, naive = bootstrap_mean(photos), bootstrap_mean(copies, groups=groups), bootstrap_mean(copies)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)
    assert (grouped.num_images, grouped.num_groups) == (200, 20)


def test_one_group_leaves_the_interval_open(rng):
    interval = bootstrap_mean(rng.normal(10, 1, 8), groups=["same"] * 8)
    assert (interval.low, interval.high) == (-np.inf, np.inf)


def test_needs_values_that_were_measured():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean(np.array([]))
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_mean(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="one label per value"):
        bootstrap_mean(np.ones(3), groups=["a"])
