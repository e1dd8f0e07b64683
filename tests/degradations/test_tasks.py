"""What holds for every task, and the particulars of bsrgan and deblurring."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degradations import build, kernels, linear_light
from degradations.builder import parse_section
from degradations.steps import MotionKernel

TASKS = [("realesrgan", 4), ("realesrgan", 1), ("bsrgan", 4), ("bsrgan", 2), ("bicubic", 4), ("face", 1)]
TASKS += [("inpainting", 1), ("deblurring", 1)]


@pytest.mark.parametrize(("name", "scale"), TASKS)
def test_every_task_replays_from_json_bit_for_bit(photo, name, scale):
    degrade = build(name, scale=scale)
    before = photo.copy()
    for seed in range(12):
        pair = degrade(photo, seed=seed, key="a/b", variant=2)
        again = degrade.replay(photo, json.loads(json.dumps(pair.record)))
        assert pair.lq.shape == (256 // scale, 256 // scale, 3)
        assert pair.lq.dtype == np.uint8
        np.testing.assert_array_equal(again.lq, pair.lq)
    np.testing.assert_array_equal(photo, before)


def test_another_process_makes_the_same_bytes(photo):
    assert hashes(TASKS) == hashes(TASKS[::-1])[::-1]


def test_a_processor_without_avx_512_makes_the_same_bytes():
    """As far as it can be shown on one machine: what dispatches by instruction set is held to those of AVX2."""
    older = {
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Haswell",
        "OPENCV_CPU_DISABLE": "AVX512-SKX",
        "OPENCV_IPP": "avx2",
    }
    assert hashes(TASKS, **older) == hashes(TASKS)


def hashes(order, **environment):
    """Of eight draws of each task in a process of its own."""
    code = (
        "import hashlib, json, sys, numpy as np; from degradations import build\n"
        "hq = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)\n"
        "for name, scale in json.loads(sys.argv[1]):\n"
        "    lqs = [build(name, scale=scale)(hq, seed=seed, key='k').lq.tobytes() for seed in range(8)]\n"
        "    print(hashlib.sha256(b''.join(lqs)).hexdigest())\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    assert len(done.stdout.split()) == len(TASKS)
    return done.stdout.split()


@pytest.mark.parametrize(("name", "scale"), TASKS)
def test_threads_and_order_change_nothing(photo, name, scale):
    degrade = build(name, scale=scale)
    seeds = range(6)
    alone = {seed: degrade(photo, seed=seed).lq.tobytes() for seed in seeds}
    with ThreadPoolExecutor(4) as pool:
        together = dict(pool.map(lambda seed: (seed, degrade(photo, seed=seed).lq.tobytes()), reversed(seeds)))
    assert together == alone


@pytest.mark.parametrize(("name", "scale"), TASKS)
@pytest.mark.parametrize(
    ("hq", "message"),
    [
        (np.zeros((64, 64, 3)), "hq is float64; give uint8"),
        (np.full((64, 64, 3), np.nan, np.float32), "NaN or infinity"),
        (np.zeros((64, 64), np.uint8), "hq is gray"),
        (np.zeros((64, 64, 4), np.uint8), "alpha channel"),
        (np.zeros((64, 64, 3), np.uint16), "hq is uint16"),
        (np.zeros((0, 0, 3), np.uint8), "hq is empty"),
        (np.zeros((4, 4, 3), np.uint8), "the shorter side needs at least"),
    ],
)
def test_every_task_names_a_wrong_image(name, scale, hq, message):
    with pytest.raises(ValueError, match=message):
        build(name, scale=scale)(hq, seed=0)


def test_records_are_in_plain_terms(photo):
    for name, scale in TASKS:
        for seed in range(8):
            record = build(name, scale=scale)(photo, seed=seed).record
            assert json.loads(json.dumps(record)) == record
            for step in record["steps"]:
                assert step["op"]
                numbers = [value for key, value in step.items() if key not in ("op", "mode", "kernel", "mixing")]
                assert all(isinstance(value, int | float) for value in numbers), step
            for shape in record.get("mask", ()):
                assert shape["shape"] in ("stroke", "box")


@given(
    task=st.sampled_from(TASKS),
    sides=st.tuples(st.integers(8, 30), st.integers(8, 30)),
    seed=st.integers(0, 2**63 - 1),
    key=st.text(max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_any_size_seed_and_key_work(task, sides, seed, key):
    name, scale = task
    hq = np.random.default_rng(1).integers(0, 256, (sides[0] * scale, sides[1] * scale, 3), dtype=np.uint8)
    pair = build(name, scale=scale)(hq, seed=seed, key=key)
    assert pair.lq.shape == (*sides, 3)
    assert pair.record["key"] == key


def test_bsrgan_shuffles_its_order():
    degrade = build("bsrgan", scale=4)
    orders = {tuple(step.op for step in degrade.draw(256, 256, seed).steps) for seed in range(200)}
    assert len(orders) > 60
    assert all(order[-1] == "jpeg" for order in orders)
    halved = sum(degrade.draw(256, 256, seed).steps[0].op == "matlab_bicubic" for seed in range(400))
    assert 25 <= halved <= 80  # an eighth


def test_motion_keeps_the_image_in_place_and_its_length():
    straight = kernels.motion([(-4.0, 0.0), (4.0, 0.0)])
    row = straight[straight.shape[0] // 2]
    assert straight.sum() == pytest.approx(1)
    np.testing.assert_allclose(row, row[::-1], atol=1e-12)
    assert np.count_nonzero(row > 0.01) == 9
    for seed in range(50):
        kernel = build({"name": "deblurring", "kind_prob": {"shake": 1}}).draw(64, 64, seed).steps[1].kernel
        assert isinstance(kernel, MotionKernel)
        array = kernel.array()
        axis = np.arange(array.shape[0]) - array.shape[0] // 2
        assert abs((array.sum(axis=0) * axis).sum()) < 1
        assert abs((array.sum(axis=1) * axis).sum()) < 1
    with pytest.raises(ValueError, match="a trajectory has 1 points"):
        kernels.motion([(0.0, 0.0)])


def test_linear_light_and_back_is_the_identity():
    levels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    linear = linear_light.srgb_to_linear(levels)
    np.testing.assert_allclose(linear_light.linear_to_srgb(linear), levels, atol=2e-3)
    np.testing.assert_allclose(linear_light.srgb_to_linear(levels.astype(np.float32)), linear, atol=1e-4)
    assert linear[188, 0, 0] == pytest.approx(127.5, abs=1)  # half the light is gray level 188


def test_sensor_noise_has_the_variance_asked_for():
    flat = np.full((300, 300, 3), 90, dtype=np.float32)
    noisy = linear_light.sensor_noise(flat, shot=0.2, read=1.5, seed=4)
    assert noisy.mean() == pytest.approx(90, abs=0.05)
    assert noisy.var() == pytest.approx(0.2 * 90 + 1.5**2, rel=0.02)
    np.testing.assert_array_equal(linear_light.sensor_noise(flat, 0.0, 0.0, seed=4), flat)
    with pytest.raises(ValueError, match="shot is -1"):
        linear_light.sensor_noise(flat, -1, 0, seed=0)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (None, "degradation is None; give a name"),
        ([1, 2], r"degradation is \[1, 2\]; give a name"),
        ({"name": ["bicubic"]}, r"degradation\.name is \['bicubic'\]; valid names are"),
        ({}, r"degradation\.name is None; valid names are"),
        ({"name": "realesrgan", "preset": ["training"]}, r"degradation\.preset is \['training'\]; valid presets are"),
    ],
)
def test_what_is_no_section_is_one_line(section, expected):
    with pytest.raises(ValueError, match=expected) as raised:
        parse_section(section)
    assert "\n" not in str(raised.value)
