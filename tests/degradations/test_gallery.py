import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFont

from degradations import build
from degradations.gallery import degradation_of, make_sheet
from degradations.gallery_pages import _wrapped
from degradations.words import describe
from infra.recipe import load_recipe, shipped_recipes


@pytest.fixture
def photo_file(tmp_path, photo):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


def gallery(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "degradations.gallery", *map(str, arguments)], capture_output=True, text=True
    )


def test_the_command_writes_a_self_contained_page(photo_file, tmp_path):
    out = tmp_path / "gallery.html"
    done = gallery(photo_file, "--recipe", "realesrgan", "--out", out, "--count", 3)
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    steps = len(make_sheet(np.asarray(Image.open(photo_file)), build("realesrgan"), 3, 0).chain)
    assert page.count("<figure>") == 4 + steps
    assert "JPEG quality" in page
    assert not re.search(r"(src|href)='(?!data:)", page)


def test_the_command_names_what_is_wrong(photo_file, tmp_path):
    for arguments, message in (
        ((photo_file, "--recipe", "nothing"), "recipe is 'nothing'; give a task (realesrgan"),
        ((photo_file, "--out", tmp_path / "x.gif"), "must end in .html or .png"),
        ((__file__,), "is no readable image"),
    ):
        done = gallery(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("task", ["realesrgan", "bsrgan", "bicubic", "face", "inpainting", "deblurring"])
def test_every_task_has_words_and_pictures(photo, task):
    sheet = make_sheet(photo, build(task), count=12, seed=1)
    assert len(sheet.draws) == 13
    assert all(picture.image.shape == photo.shape for picture in (*sheet.draws, *sheet.chain))
    assert all(line for picture in sheet.draws for line in picture.lines)
    for seed in range(40):
        assert all(describe(step) for step in build(task).draw(64, 64, seed).steps)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_has_one(name):
    recipe, found = load_recipe(name), degradation_of(name)
    wanted = build(recipe.raw["degradation"], scale=recipe.scale)
    assert (found.section, found.scale) == (wanted.section, wanted.scale)


def test_recipes_are_found_by_name_and_by_file(tmp_path):
    assert degradation_of("realsr_x4").section.name == "realesrgan"
    path = tmp_path / "mine.yaml"
    path.write_text("scale: 2\ndegradation: {name: bsrgan}\n")
    assert degradation_of(str(path)).scale == 2
    path.write_text("extends: realsr_x4\ndegradation: {second_blur_prob: 0.25}\n")
    assert degradation_of(str(path)).section.second_blur_prob == 0.25
    path.write_text(f"extends: {path}\n")
    with pytest.raises(ValueError, match="extends itself"):
        degradation_of(str(path))
    path.write_text("scale: 2\n")
    with pytest.raises(ValueError, match="has no 'degradation' section"):
        degradation_of(str(path))


def test_simple_mistakes_are_one_line(photo_file, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("scale: [4\n")
    nowhere = tmp_path / "nowhere" / "g.png"
    for options, code, expected in (
        (("--recipe", recipe, "--out", tmp_path / "g.png"), 2, "mine.yaml is no YAML (while parsing a flow"),
        (("--count", 1, "--out", nowhere), 1, f"{nowhere}: No such file or directory"),
    ):
        done = gallery(photo_file, *options)
        assert done.returncode == code
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert expected in line


def test_existing_pairs_are_shown_crop_by_crop(photo, tmp_path):
    for kind, image in (("hq", photo), ("lq", photo[::4, ::4])):
        (tmp_path / kind / "sub").mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / kind / "sub/a.png")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"scale: 4\ndegradation: {{name: paired, hq_dir: '{tmp_path / 'hq'}', lq_dir: '{tmp_path / 'lq'}'}}\n"
    )
    out = tmp_path / "gallery.png"
    done = gallery(tmp_path / "hq/sub/a.png", "--recipe", recipe, "--out", out, "--count", 2)
    assert done.returncode == 0, done.stderr
    assert Image.open(out).width > 4 * 256
    sheet = make_sheet(photo, degradation_of(str(recipe)), 2, 0, "sub/a")
    np.testing.assert_array_equal(sheet.draws[1].image[::4, ::4], photo[::4, ::4])
    assert sheet.draws[1].lines == ("LQ", "from sub/a.png")


def test_long_captions_stay_inside_their_cell():
    font = ImageFont.load_default(size=12)
    line = "blur generalized gaussian 19 px, sigma 2.6 x 1.1 at -120 degrees, beta 1.9, and more"
    parts = _wrapped(line, font, 256)
    assert len(parts) > 1
    assert " ".join(part.strip() for part in parts) == line
    assert all(font.getlength(part) <= 256 for part in parts)
