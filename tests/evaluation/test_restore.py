"""restore: every kind of image, what is kept and what is refused."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.image_output import losses, write_image
from evaluation.restoration import RestoreOptions, plan, restore
from evaluation.restore import main as restore_command
from evaluation.restore_plan import plan_jobs
from infra import storage
from infra.errors import JobError, UsageError
from resshift import Restorer
from resshift.image_files import LoadedImage
from tests.evaluation.conftest import tiny_restorer


@pytest.fixture
def pixels(rng):
    return cv2.GaussianBlur(rng.integers(0, 256, (20, 14, 3), dtype=np.uint8), (0, 0), 2)


def restored(path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def test_every_kind_of_image_comes_back_in_its_kind(pixels, bundle, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    photo = Image.fromarray(pixels)
    photo.save(source / "rgb.jpg")
    photo.convert("L").save(source / "gray.png")
    photo.convert("P").save(source / "palette.png")
    photo.convert("CMYK").save(source / "cmyk.tif")
    with_alpha = photo.convert("RGBA")
    with_alpha.putalpha(Image.linear_gradient("L").resize(photo.size))
    with_alpha.save(source / "alpha.png")
    with_alpha.convert("LA").save(source / "gray_alpha.png")
    cv2.imwrite(str(source / "deep.png"), pixels[..., 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6  # shot with the camera on its side
    photo.save(source / "turned.jpg", exif=turned)
    Image.new("RGB", (1, 1), "red").save(source / "one_pixel.png")

    outcome = restore(str(bundle), [str(source)], str(tmp_path / "out"))
    assert (outcome.restored, outcome.skipped, outcome.failed) == (9, 0, ())
    out = {path.stem: restored(path) for path in (tmp_path / "out").iterdir()}
    assert {name: image.mode for name, image in out.items()} == {
        "rgb": "RGB", "gray": "L", "palette": "RGB", "cmyk": "RGB", "alpha": "RGBA", "gray_alpha": "LA",
        "deep": "I;16", "turned": "RGB", "one_pixel": "RGB",
    }  # fmt: skip
    sizes = {name: image.size for name, image in out.items()}
    assert sizes.pop("turned") == (80, 56)
    assert sizes.pop("one_pixel") == (4, 4)
    assert set(sizes.values()) == {(56, 80)}
    alpha = np.asarray(out["alpha"].getchannel("A"), float)
    expected = np.asarray(with_alpha.getchannel("A").resize((56, 80), Image.Resampling.BICUBIC), float)
    np.testing.assert_allclose(alpha, expected, atol=1)
    assert outcome.notes == ()


def test_sixteen_bits_stay_sixteen(pixels, bundle, tmp_path):
    """The 8 bits of the same image are the rounded 16, and those are more than 8 bits enlarged."""
    smooth = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), 3)
    deep = np.rint(smooth * 257).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / "deep_tiff.tif"), deep[..., ::-1])
    outcome = restore(str(bundle), [str(tmp_path / "deep*")], str(tmp_path / "out"))
    assert (outcome.restored, outcome.notes) == (2, ())
    result = cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert (result.dtype, result.shape) == (np.uint16, (80, 56, 3))
    np.testing.assert_array_equal(result, Restorer.load(bundle).prepare()(deep))
    assert len(np.unique(result % 257)) > 100
    eight = Restorer.load(bundle)(np.rint(smooth).astype(np.uint8))
    assert np.abs(result / 257 - eight).mean() < 1.5
    tiff = cv2.imread(str(tmp_path / "out" / "deep_tiff.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    np.testing.assert_array_equal(tiff, result)


@pytest.mark.parametrize(("kind", "mode"), [("tiff", "RGBA"), ("jpeg", "RGB"), ("webp", "RGBA")])
def test_formats(kind, mode, pixels, bundle, tmp_path):
    with_alpha = Image.fromarray(pixels).convert("RGBA")
    with_alpha.putalpha(100)
    with_alpha.save(tmp_path / "a.png")
    options = RestoreOptions(format=kind, suffix="_x4")
    outcome = restore(str(bundle), [str(tmp_path / "a.png")], str(tmp_path / "out"), options=options)
    assert outcome.failed == ()
    (written,) = (tmp_path / "out").iterdir()
    assert written.stem == "a_x4"
    image = restored(written)
    assert (image.mode, image.size) == (mode, (56, 80))
    expected = Restorer.load(bundle).prepare()(pixels).astype(int)
    assert np.abs(np.asarray(image.convert("RGB")) - expected).mean() <= (3 if kind == "jpeg" else 0)
    lost = (f"{tmp_path}/a.png: the alpha channel is left out, jpeg has none",) if kind == "jpeg" else ()
    assert outcome.notes == lost
    with pytest.raises(UsageError, match="format: 'bmp' is unknown; choose one of png, tiff"):
        restore(str(bundle), [str(tmp_path / "a.png")], str(tmp_path), options=RestoreOptions(format="bmp"))


def test_results_depend_on_the_seed_alone(pixels, bundle, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    results = []
    for number, seed in enumerate((0, 0, 1)):
        restore(str(bundle), [str(tmp_path / "a.png")], str(tmp_path / str(number)), options=RestoreOptions(seed=seed))
        results.append((tmp_path / str(number) / "a.png").read_bytes())
    assert results[0] == results[1] != results[2]


def test_one_bad_input_does_not_stop_the_others(pixels, bundle, tmp_path):
    for name in ("a", "b", "cut"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes(cut.read_bytes()[:150])
    (tmp_path / "text.png").write_text("no image")
    inputs = [str(tmp_path / "?.png"), str(cut), str(tmp_path / "text.png"), str(tmp_path / "nowhere.png")]
    command = [sys.executable, "evaluation/restore.py", "--model", str(bundle), *inputs, "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert errors[0] == f"error: {tmp_path}/nowhere.png: does not exist"
    assert "cut.png: is damaged or cut off" in errors[1]
    assert errors[2] == f"error: {tmp_path}/text.png: is not an image (or of a kind that is not supported)"
    assert "Traceback" not in ended.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert f"2 restored into {tmp_path}/out, 3 failed" in ended.stdout


def test_results_that_exist_are_kept_unless_told_otherwise(pixels, bundle, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    kept = restore(str(bundle), [str(tmp_path / "a.png")], str(tmp_path / "out"))
    assert (kept.restored, kept.skipped) == (0, 1)
    assert kept.notes == (), "their number is told, and they may be thousands"
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"
    replaced = restore(
        str(bundle), [str(tmp_path / "a.png")], str(tmp_path / "out"), options=RestoreOptions(overwrite=True)
    )
    assert (replaced.restored, replaced.skipped) == (1, 0)
    assert restored(tmp_path / "out" / "a.png").size == (56, 80)


def test_folders_keep_their_structure_and_names_do_not_collide(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "deep/b.png", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"")
    jobs, missing = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))
    assert missing == []
    targets = [job.target.removeprefix(f"{tmp_path}/out/") for job in jobs]
    assert targets == ["a.jpg.png", "a.png.png", "deep/b.png"]


def test_inputs_and_each_other_are_never_overwritten(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match="its result would be"):
        plan_jobs([str(tmp_path / "a.png"), str(tmp_path / "b" / "a.png")], str(tmp_path / "out"))
    with pytest.raises(UsageError, match="is an input; choose another --out"):
        plan_jobs([str(tmp_path / "a.png")], str(tmp_path))
    with pytest.raises(UsageError, match="is an input; choose another --out"):
        plan_jobs([f"file://{tmp_path}/a.png"], str(tmp_path))
    with pytest.raises(UsageError, match="is a mask; choose another --out"):
        plan_jobs([str(tmp_path / "a.png")], str(tmp_path / "b"), mask=str(tmp_path / "b" / "a.png"))
    with pytest.raises(UsageError, match=r"is the folder of the inputs; choose another --out"):
        plan_jobs([str(tmp_path / "b")], str(tmp_path / "b"))


def test_on_s3_neither(s3):
    storage.write_bytes(f"{s3}/photos/a.png", b"")
    with pytest.raises(UsageError, match="is the folder of the inputs"):
        plan_jobs([f"{s3}/photos"], f"{s3}/photos/")
    with pytest.raises(UsageError, match="is an input; choose another --out"):
        plan_jobs([f"{s3}/photos/a.png"], f"{s3}/photos")


@pytest.mark.parametrize("pattern", ["in", "in/**/*.png"])
def test_results_within_the_folder_of_the_inputs_are_no_inputs(pattern, tmp_path):
    out = tmp_path / "in" / "restored"
    out.mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(b"")
    first, _ = plan_jobs([str(tmp_path / pattern)], str(out))
    (out / "a.png").write_bytes(b"")
    assert plan_jobs([str(tmp_path / pattern)], str(out))[0] == first


def test_an_out_around_the_inputs_or_the_folder_of_a_glob_drops_no_input(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for item, out, target in (("photos", ".", "a.png"), ("photos/*.jpg", "photos", "photos/a.png"),
                              ("ph*/*.jpg", "photos/x", "photos/x/a.png")):  # fmt: skip
        assert [job.target for job in plan_jobs([item], out)[0]] == [target]
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"photos/a.png is an input; choose another --out"):
        plan_jobs(["photos/*.png"], "photos")
    with pytest.raises(UsageError, match=r"input \*/a.\?\?g: holds no image but those in out 'photos'"):
        plan_jobs(["*/a.??g"], "photos")


def test_an_image_named_twice_is_one_job(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "b.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    jobs, _ = plan_jobs(["photos/b.png", "./photos/b.png", str(tmp_path / "photos"), "photos/*"], "out")
    assert [(job.source, job.target) for job in jobs] == [("photos/b.png", "out/b.png")]


def test_a_folder_of_masks_may_hold_other_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "a.txt"):
        (tmp_path / "masks" / name).write_bytes(b"")
    ((job,), _) = plan_jobs([str(tmp_path / "a.jpg")], str(tmp_path / "out"), mask=str(tmp_path / "masks"))
    assert job.mask == f"{tmp_path}/masks/a.png"


def test_a_profile_of_gray_does_not_go_into_colour(tmp_path):
    rgb = np.zeros((4, 4, 3), np.uint8)
    for is_gray, kept in ((True, None), (False, b"a profile")):
        like = LoadedImage(rgb, is_gray=is_gray, icc_profile=b"a profile")
        write_image(tmp_path / "image.webp", [rgb], (4, 4), like, "webp")
        assert restored(tmp_path / "image.webp").info.get("icc_profile") == kept
        assert ("the colour profile is left out, it is of gray and webp holds RGB" in losses(like, "webp")) is is_gray


def test_inpainting_fills_the_mask_and_touches_nothing_else(pixels, tmp_path):
    tiny_restorer(scale=1, task="inpainting").save(tmp_path / "model")
    (tmp_path / "masks").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[5:12, 3:9] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    for number, where in enumerate(("masks", "masks/a.png")):
        outcome = restore(
            str(tmp_path / "model"), [str(tmp_path / "a.png")], str(tmp_path / f"out{number}"), str(tmp_path / where)
        )
        assert outcome.failed == ()
    result = np.asarray(restored(tmp_path / "out0" / "a.png"))
    np.testing.assert_array_equal(result[mask == 0], pixels[mask == 0])
    assert (result[mask == 255] != pixels[mask == 255]).any()
    np.testing.assert_array_equal(result, np.asarray(restored(tmp_path / "out1" / "a.png")))
    with pytest.raises(UsageError, match="needs one, white where pixels are to be filled in"):
        restore(str(tmp_path / "model"), [str(tmp_path / "a.png")], str(tmp_path / "out2"))
    Image.fromarray(mask[:4]).save(tmp_path / "small.png")
    small = restore(
        str(tmp_path / "model"), [str(tmp_path / "a.png")], str(tmp_path / "out3"), str(tmp_path / "small.png")
    )
    assert "the mask is 14x4 and the image 14x20 pixels" in small.failed[0]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError("Unable to allocate 4.00 GiB for an array with shape"),
    ],
)
def test_too_little_memory_is_one_clear_line(pixels, bundle, tmp_path, monkeypatch, error):
    Image.fromarray(pixels).save(tmp_path / "a.png")

    def full(*_):
        raise error

    monkeypatch.setattr(Restorer, "restore_rows", full)
    outcome = restore(str(bundle), [str(tmp_path / "a.png")], str(tmp_path / "out"))
    said = str(outcome.stopped)
    assert f"{tmp_path}/a.png: memory does not hold 1 tiles of 512 pixels; lower --batch" in said
    assert (outcome.restored, outcome.failed) == (0, ())


def test_an_error_of_ours_is_not_taken_for_too_little_memory(pixels, bundle, tmp_path, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")

    def wrong(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Restorer, "restore_rows", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        restore(str(bundle), [str(tmp_path / "a.png")], str(tmp_path / "out"))


def test_a_result_that_cannot_be_written_hides_nothing_that_was_seen_before(pixels, bundle, tmp_path, capsys):
    for name in ("b", "c/c", "d", "e"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "a.png").write_text("no image")
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1])]
    frames[0].save(tmp_path / "in" / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "c").write_text("a file where a folder is to be")
    target = f"{tmp_path}/out/c/c.png"
    with pytest.raises(JobError, match=rf"in/c/c.png: {target}: cannot be written .*; images not tried: 2$"):
        restore_command([str(tmp_path / "in")], str(bundle), str(tmp_path / "out"))
    said = capsys.readouterr()
    assert f"note: {tmp_path}/in/a.gif: only the first of 2 frames is used\n" in said.err
    assert f"error: {tmp_path}/in/a.png: is not an image (or of a kind that is not supported)\n" in said.err
    assert f"2 restored into {tmp_path}/out, 1 failed" in said.out


def test_wrong_usage_is_one_clear_line(pixels, bundle, tmp_path, mlflow_store):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    inputs, out = [str(tmp_path / "a.png")], str(tmp_path / "out")
    with pytest.raises(UsageError, match="takes none; leave it out"):
        restore(str(bundle), inputs, out, mask=inputs[0])
    with pytest.raises(UsageError, match="no model bundle there"):
        restore(str(tmp_path), inputs, out)
    with pytest.raises(UsageError, match="registered models at"):
        restore("models:/nobody/1", inputs, out)
    with pytest.raises(UsageError, match="does not exist; give image files"):
        restore(str(bundle), [str(tmp_path / "none.png")], out)
    too_wide = RestoreOptions(tile_size=64, tile_overlap=60)
    with pytest.raises(UsageError, match="more than half of tile-size"):
        restore(str(bundle), inputs, out, options=too_wide)
    with pytest.raises(UsageError, match="more than half of tile-size"):
        plan(inputs, out, None, too_wide)  # all that --dry-run does
