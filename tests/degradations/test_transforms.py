import json

import albumentations as A
import numpy as np
import pytest

from degradations import transforms as T
from degradations.camera_transforms import AddSensorNoise, CameraShake, Defocus
from degradations.mask_transforms import TakeAway

ALL = [
    CameraShake(p=1),
    Defocus(p=1),
    AddSensorNoise(p=1),
    TakeAway(p=1),
    T.KernelBlur(p=1),
    T.SincBlur(p=1),
    T.RandomRescale(p=1),
    T.AddGaussianNoise(p=1),
    T.AddPoissonNoise(p=1),
    T.JpegCompression(p=1),
    T.Degrade("realesrgan", scale=4),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_each_survives_serialisation_and_is_seeded_by_its_compose(transform, photo):
    spec = json.loads(json.dumps(A.to_dict(A.Compose([transform], seed=3))))
    first, second = A.from_dict(spec), A.from_dict(spec)
    for pipeline in (first, second):
        pipeline.set_random_seed(11)
    before = photo.copy()
    results = [pipeline(image=photo)["image"] for pipeline in (first, second)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(photo, before)
    assert results[0].dtype == np.uint8
    assert results[0].shape[2] == 3
    first.set_random_seed(12)
    assert not np.array_equal(first(image=photo)["image"], results[0])


@pytest.mark.parametrize("transform", ALL[:-1], ids=lambda t: type(t).__name__)
def test_float_images_stay_float_in_0_1(transform, photo):
    out = A.Compose([transform], seed=1)(image=photo.astype(np.float32) / 255)["image"]
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert out.max() > 0.5


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_what_was_drawn_replays_from_json(transform, photo):
    made = A.ReplayCompose([transform])(image=photo)
    again = A.ReplayCompose.replay(json.loads(json.dumps(made["replay"])), image=photo)
    np.testing.assert_array_equal(again["image"], made["image"])


def test_masks_follow_image_and_mask(photo):
    pipeline = A.Compose([A.HorizontalFlip(p=1), TakeAway(p=1, kind_prob={"box": 1}), A.VerticalFlip(p=1)], seed=2)
    before = np.zeros((256, 256), np.uint8)
    before[:4] = 1
    out = pipeline(image=photo, mask=before)
    fresh = np.flipud(out["mask"]) - before
    assert before[5:].sum() == 0  # the mask handed in is left alone
    assert (out["mask"][-4:] == 1).all()  # and what it said stays
    assert 0 < fresh.mean() < 1
    np.testing.assert_array_equal(np.flipud(out["image"])[fresh == 1], 0)
    np.testing.assert_array_equal(np.flipud(out["image"])[fresh == 0], photo[:, ::-1][fresh == 0])


def test_blurs_leave_a_mask_alone(photo):
    mask = np.eye(256, dtype=np.uint8)
    pipeline = A.Compose([CameraShake(p=1), Defocus(p=1), T.KernelBlur(p=1), AddSensorNoise(p=1)], seed=1)
    np.testing.assert_array_equal(pipeline(image=photo, mask=mask)["mask"], mask)


def test_they_combine_with_albumentations_own(photo):
    pipeline = A.Compose([A.HorizontalFlip(p=1), T.KernelBlur(p=1), T.JpegCompression(p=1), T.Degrade(scale=2)], seed=5)
    assert pipeline(image=photo)["image"].shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.JpegCompression(quality_range=(95, 30)), "upside down"),
        (lambda: T.RandomRescale(resize_prob={"up": 0.5, "down": 0.6}), "must sum to 1"),
        (lambda: T.KernelBlur(size_range=(4, 8)), "kernel sizes must be odd"),
        (lambda: CameraShake(length_range=(0, 4)), "the lower end must be above 0"),
        (lambda: TakeAway(kind_prob={"box": 0.5}), "the probabilities sum to 0.5; they must sum to 1"),
        (lambda: TakeAway(box={"mrgin": 3}), r"box\.mrgin"),
        (lambda: T.Degrade("nothing"), "degradation.name is 'nothing'"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
