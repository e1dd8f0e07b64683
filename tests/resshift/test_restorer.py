import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from resshift import VQGAN, EtaSchedule, Restorer, SwinUNet, SwinUNetConfig, VQGANConfig
from resshift.pyfunc import _load_pyfunc
from resshift.tiling import spans

UNET = SwinUNetConfig(
    image_size=16,
    model_channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(16,),
    swin_depth=1,
    swin_embed_dim=32,
    mlp_ratio=1.0,
    lq_size=16,
)
F4 = VQGANConfig(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, n_embed=16)


def restorer(scale=4, latent=True, seed=0, **changes):
    torch.manual_seed(seed)
    options = {k: changes.pop(k) for k in ("tile_size", "tile_overlap") if k in changes}
    denoiser = SwinUNet(dataclasses.replace(UNET, **changes))
    autoencoder = VQGAN(F4, latent_scale=2.0) if latent else None
    return Restorer(denoiser, autoencoder, EtaSchedule.exponential(num_steps=2), scale, **options)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (16, 16), (19, 33)])
@pytest.mark.parametrize(
    ("scale", "latent", "lq_size"),
    [(4, True, 16), (2, True, 32), (1, True, 64), (4, False, 16), (1, False, 16), (3, True, 16)],
)
def test_any_size_scale_and_space(size, scale, latent, lq_size):
    restored = restorer(scale, latent, lq_size=lq_size)(photo(*size))
    assert restored.shape == (size[0] * scale, size[1] * scale, 3)
    assert restored.dtype == np.uint8


def test_same_seed_same_image():
    model, image = restorer(), photo(8, 8)
    assert np.array_equal(model(image, seed=3), model(image, seed=3))
    assert not np.array_equal(model(image, seed=3), model(image, seed=4))


def test_noise_per_image_makes_a_batch_independent_of_its_composition():
    model = restorer()
    lq = torch.rand(3, 3, 9, 8) * 2 - 1
    noises = [model.draw_noise(lq[:1].shape, torch.Generator().manual_seed(i)) for i in range(3)]
    together = model.restore_batch(lq, torch.cat(noises, dim=1))
    alone = torch.cat([model.restore_batch(lq[i : i + 1], noises[i]) for i in range(3)])
    assert together.abs().max() <= 1
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("latent", [True, False])
def test_images_restored_together_are_those_restored_alone(latent):
    model = restorer(latent=latent)
    images, seeds = [photo(9, 8, seed=i) for i in range(3)], [5, 6, 5]
    together = model.restore_images(images, seeds, [None] * 3)
    for image, seed, restored in zip(images, seeds, together, strict=True):
        alone = model(image, seed=seed)
        assert restored.shape == alone.shape
        assert np.abs(restored.astype(int) - alone).max() <= 1
    assert np.array_equal(model.restore_images(images[:1], [5], [None])[0], model(images[0], seed=5))
    model.tile_size, model.tile_overlap = 24, 8
    for image, restored in zip(images, model.restore_images(images, seeds, [None] * 3), strict=True):
        assert restored.shape == (36, 32, 3)
        assert image.dtype == restored.dtype


def test_images_inpainted_together_keep_their_known_pixels():
    model = restorer(scale=1, latent=False, cond_mask=True)
    images, masks = [photo(12, 10, seed=i) for i in range(2)], [np.zeros((12, 10), np.uint8) for _ in range(2)]
    masks[0][2:5, 3:6] = masks[1][7:9] = 255
    for image, mask, restored in zip(images, masks, model.restore_images(images, [1, 2], masks), strict=True):
        np.testing.assert_array_equal(restored[mask == 0], image[mask == 0])
        assert not np.array_equal(restored[mask == 255], image[mask == 255])
    with pytest.raises(ValueError, match="mask is missing"):
        model.restore_images(images, [1, 2], [None, None])


class Pointwise(SwinUNet):
    """A denoiser that looks at one pixel at a time, so that tiling must not be visible at all."""

    def forward(self, x, t, lq, mask=None):
        return 0.3 * x + 0.5 * lq + 0.02 * t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("size", [(40, 40), (33, 70), (16, 90)])
def test_tiles_of_a_local_model_join_without_a_seam(size):
    schedule = EtaSchedule.exponential()
    image = photo(*size)
    tiled = Restorer(Pointwise(UNET), None, schedule, 1, tile_size=24, tile_overlap=8)
    whole = Restorer(Pointwise(UNET), None, schedule, 1, tile_size=4096)
    assert np.abs(tiled(image).astype(int) - whole(image)).max() <= 1


class Local(SwinUNet):
    """A denoiser that looks `REACH` pixels far and no further, at the state (and so at the noise) and the LQ image."""

    REACH = 3

    def forward(self, x, t, lq, mask=None):
        kernel = torch.ones(3, 1, 2 * self.REACH + 1, 2 * self.REACH + 1) / (2 * self.REACH + 1) ** 2
        return 0.9 * torch.nn.functional.conv2d(0.5 * x + 0.5 * lq, kernel, padding=self.REACH, groups=3)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_agree_with_the_whole_where_their_edges_cannot_be_seen(batch_size):
    """Edges reach `far` pixels into a tile. Past that nothing differs; before, a neighbour has most of the weight."""
    size, overlap, steps = 64, 32, 2
    far = steps * Local.REACH
    schedule = EtaSchedule.exponential(num_steps=steps)
    image = photo(150, 200)
    tiled = Restorer(Local(UNET), None, schedule, 1, tile_size=size, tile_overlap=overlap, batch_size=batch_size)
    whole = Restorer(Local(UNET), None, schedule, 1, tile_size=4096)
    expected = whole(image).astype(int)
    difference = np.abs(tiled(image) - expected).max(axis=2)

    def near_an_edge(length: int) -> np.ndarray:
        near = np.zeros(length, bool)
        for span in spans(length, size, overlap):
            for edge in {span.start, span.start + span.length} - {0, length}:
                near[max(0, edge - far) : edge + far] = True
        return near

    near = near_an_edge(150)[:, None] | near_an_edge(200)[None, :]
    assert 0.2 < near.mean() < 0.8
    assert difference[~near].max() <= 1
    edges = np.abs(Restorer(Local(UNET), None, schedule, 1)(image[:, :size]) - expected[:, :size]).max()
    assert edges > 8, "an edge by itself does change the pixels beside it"
    # far / (overlap + 1) is the most weight that a pixel gets which sees the edge of its tile, along either axis
    assert difference.max() <= 2 * far / (overlap + 1) * edges + 1


def test_a_seam_is_no_more_visible_than_any_other_place():
    """On a smooth image, by a model that darkens what lies at the edges of its tile."""
    y, x = np.mgrid[:64, :200]
    image = np.stack([120 + 0.6 * x, 200 - 0.5 * x, 90 + y], axis=-1).astype(np.uint8)
    model = Restorer(Local(UNET), None, EtaSchedule.exponential(num_steps=2), 1, tile_size=64, tile_overlap=32)

    def worst_step(result: np.ndarray, places: list[int]) -> float:
        """The largest step between columns at these places, relative to the usual one."""
        steps = np.abs(np.diff(result.astype(float), axis=1)).mean(axis=(0, 2))
        return steps[places].max() / np.median(steps)

    seams = [span.start + offset for span in spans(200, 64, 32)[1:] for offset in (-1, 15, 31)]
    assert worst_step(model(image), seams) < 1.5
    side_by_side = [model(image[:, start : start + 64]) for start in (0, 64, 128)]
    assert worst_step(np.concatenate(side_by_side, axis=1), [63, 127]) > 2, "what it would be without blending"


def test_a_part_of_an_image_gets_the_noise_of_that_part():
    """Cut off on the right and at the bottom, a local model's result stays what it was."""
    schedule = EtaSchedule.exponential()
    model = Restorer(Pointwise(UNET), None, schedule, 1)
    image = photo(90, 70)
    np.testing.assert_array_equal(model(image)[:50, :40], model(image[:50, :40]))


@pytest.mark.parametrize("tile_size", [24, 4096])
def test_sixteen_bits_are_restored_in_sixteen_bits(tile_size):
    model = Restorer(Pointwise(UNET), None, EtaSchedule.exponential(), 1, tile_size=tile_size, tile_overlap=8)
    image = np.random.default_rng(0).integers(0, 65536, (30, 41, 3), dtype=np.uint16)
    deep, shallow = model(image), model(np.rint(image / 257).astype(np.uint8))
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - shallow).max() <= 1.01
    assert len(np.unique(deep)) > 2500


def test_rows_come_in_order_and_progress_is_told():
    model = Restorer(Pointwise(UNET), None, EtaSchedule.exponential(), 1, tile_size=24, tile_overlap=8, batch_size=2)
    told = []
    coming = model.restore_rows(photo(60, 100), on_tiles=lambda done, total: told.append((done, total)))
    rows = [next(coming)]
    columns = len(spans(100, 24, 8))
    assert sum(done for done, _ in told) == columns, "the first rows come when the first tiles are done"
    assert rows[0].shape == (16, 100, 3)
    rows += coming
    np.testing.assert_array_equal(np.concatenate(rows), model(photo(60, 100)))
    assert sum(done for done, _ in told) == told[0][1] == len(spans(60, 24, 8)) * columns
    assert max(done for done, _ in told) == 2


def test_tiles_of_a_real_model_stay_close_to_the_whole():
    """Not equal: normalisation and windows differ. Another seed shows how far apart images can be."""
    image = photo(20, 13)
    tiled, whole = (restorer(latent=False, tile_size=size, tile_overlap=16)(image) for size in (48, 4096))
    other_seed = restorer(latent=False)(image, seed=1)
    assert tiled.shape == whole.shape == (80, 52, 3)
    difference, far = (np.abs(x.astype(float) - whole).mean() for x in (tiled, other_seed))
    assert difference < 0.5 * far


def test_spans_cover_an_axis_with_the_overlap_asked_for():
    for length in range(1, 60):
        covered = spans(length, 10, 4)
        assert covered[0].start == 0
        assert covered[-1].start + covered[-1].length == length
        for a, b in pairwise(covered):
            assert a.start + a.length - b.start >= 4


@pytest.mark.parametrize("latent", [True, False])
@pytest.mark.parametrize("tile_size", [24, 4096])
def test_inpainting_leaves_known_pixels_alone_and_never_sees_the_unknown(latent, tile_size):
    model = restorer(1, latent, lq_size=64 if latent else 16, cond_mask=True, tile_size=tile_size, tile_overlap=8)
    image = photo(30, 41)
    mask = np.zeros((30, 41), np.uint8)
    mask[5:20, 10:30] = 255
    restored = model(image, mask=mask)
    assert np.array_equal(restored[mask == 0], image[mask == 0])
    assert not np.array_equal(restored[mask == 255], image[mask == 255])
    assert np.array_equal(model(image, mask=mask > 0), restored)
    blanked = np.where(mask[..., None] > 0, np.uint8(0), image)
    assert np.array_equal(model(blanked, mask=mask), restored)


@pytest.mark.parametrize("latent", [True, False])
def test_save_and_load(latent, tmp_path):
    model = restorer(latent=latent, tile_size=64, tile_overlap=16)
    model.task = "face"
    model.save(tmp_path / "model")
    loaded = Restorer.load(tmp_path / "model")
    image = photo(20, 20)
    assert np.array_equal(loaded(image, seed=1), model(image, seed=1))
    assert (loaded.task, loaded.scale, loaded.tile_size) == ("face", 4, 64)
    assert torch.equal(loaded.schedule.sqrt_eta, model.schedule.sqrt_eta)
    assert (tmp_path / "model" / "autoencoder.json").exists() == latent


def test_a_damaged_bundle_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"model\.json' cannot be read"):
        Restorer.load(tmp_path)
    restorer(latent=False).save(tmp_path)
    path = tmp_path / "model.json"
    content = json.loads(path.read_text())
    for change, named in (
        ({"denoiser": content["denoiser"] | {"swin_depth": 2}}, "missing: .*blocks.1"),
        ({"denoiser": content["denoiser"] | {"image_size": 15}}, "image_size is 15"),
        ({"schedule": {"kappa": 2.0, "sqrt_eta": [0.5, 0.2]}}, "strictly increasing"),
        ({"latent_space": True}, r"autoencoder\.json"),
        ({"scale": 0}, "scale is 0"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=named):
            Restorer.load(tmp_path)
    path.write_text(json.dumps({"scale": 4}))
    with pytest.raises(ValueError, match="lacks"):
        Restorer.load(tmp_path)


def test_parts_that_do_not_fit_are_named():
    schedule = EtaSchedule.exponential()
    eight = SwinUNet(dataclasses.replace(UNET, in_channels=8, out_channels=8))
    for args, named in (
        ((eight, None, schedule, 4), "in_channels 8"),
        ((eight, VQGAN(F4), schedule, 4), "in_channels 8"),
        ((SwinUNet(UNET), None, schedule, 0), "scale is 0"),
        ((SwinUNet(dataclasses.replace(UNET, cond_mask=True)), None, schedule, 4), "needs scale 1"),
    ):
        with pytest.raises(ValueError, match=named):
            Restorer(*args)
    with pytest.raises(ValueError, match="tile_overlap"):
        restorer(tile_size=64, tile_overlap=40)


def test_bad_inputs_are_named():
    model = restorer()
    with pytest.raises(ValueError, match="uint8 RGB"):
        model(photo(8, 8)[..., 0])
    with pytest.raises(ValueError, match="mask was given"):
        model(photo(8, 8), mask=np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="lq has shape"):
        model.restore_batch(torch.zeros(1, 1, 8, 8), torch.Generator())
    with pytest.raises(ValueError, match="noise has shape"):
        model.restore_batch(torch.zeros(1, 3, 8, 8), torch.zeros(3, 1, 3, 4, 4))
    inpainter = restorer(1, lq_size=64, cond_mask=True)
    for call in (inpainter, lambda image, mask: inpainter.restore_images([image] * 2, [0, 1], [mask] * 2)):
        with pytest.raises(ValueError, match="mask holds 0 and 1"):
            call(photo(8, 8), mask=np.eye(8, dtype=np.uint8))
    with pytest.raises(ValueError, match="mask is missing"):
        inpainter(photo(8, 8))
    with pytest.raises(ValueError, match="mask has shape"):
        inpainter(photo(8, 8), mask=np.zeros((8, 9), np.uint8))


def test_pyfunc(tmp_path):
    model = restorer(latent=False)
    model.save(tmp_path / "sr")
    model.prepare()
    loaded = _load_pyfunc(str(tmp_path / "sr"))
    images = [photo(6, 5), photo(4, 9)]
    restored = loaded.predict({"image": images}, params={"seed": 7})["image"]
    for image, result in zip(images, restored, strict=True):
        assert np.array_equal(result, model(image, seed=7))
    for wrong in (np.stack(images[:1]), images):
        with pytest.raises(ValueError, match=r"model_input is a .*; give a table with the column image: encoded"):
            loaded.predict(wrong)

    restorer(1, latent=False, cond_mask=True).save(tmp_path / "inpaint")
    inpainter = _load_pyfunc(str(tmp_path / "inpaint"))
    masks = [np.zeros(image.shape[:2], np.uint8) for image in images]
    for image, kept in zip(images, inpainter.predict({"image": images, "mask": masks})["image"], strict=True):
        assert np.array_equal(kept, image)
