"""The report in a real browser: images show, the edge moves, sides can be chosen, nothing is fetched from outside."""

import numpy as np
import pytest

from evaluation.report import render_report
from evaluation.report_gallery import Picture
from tests.evaluation.browser import CHROMIUM, Page
from tests.evaluation.logged import CONFIG, make_rows, make_summary

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")

COLOURS = {"lq": (200, 30, 30), "other": (200, 200, 30), "champion": (30, 30, 200), "model": (30, 160, 30),
           "hq": (240, 240, 240)}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report whose images have one colour by role, so that a pixel of the screen says whose it is."""
    rows = make_rows({"bicubic": 0.0, "other": 0.4, "champion": 0.3, "model": 0.6}, num_images=4)
    summary = make_summary(rows, "3", champion="2")
    pictures = []
    for number, key in enumerate(summary["ranking"]):
        images = {role: np.full((96, 128, 3), colour, np.uint8) for role, colour in COLOURS.items()}
        images["hq"][:24, :32] = (0, 0, 0)  # a corner, to see what is enlarged
        if number == 1:
            del images["other"]  # it has not restored this one
        pictures.append(Picture(key, images, {}))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(summary, rows, pictures, CONFIG))
    return path


@pytest.fixture(params=[1200, 400])
def page(request, report, tmp_path):
    with Page(tmp_path / "profile", report.as_uri(), width=request.param) as opened:
        yield opened
        assert opened.errors == []
        outside = [url for url in opened.requests if not url.startswith("data:") and url != report.as_uri()]
        assert outside == []


def role_at(page, share, viewer=".viewer", down=0.75):
    """Whose image is seen at a share of the viewer's width."""
    left, top, width, height = page.box(viewer)
    pixel = page.screenshot()[int(top + down * height), int(left + share * width)]
    distances = {role: int(np.abs(pixel.astype(int) - colour).sum()) for role, colour in COLOURS.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] < 12 else None


def test_every_image_shows_and_the_page_is_not_wider_than_the_screen(page):
    assert page.evaluate("document.images.length") == 4 * 5 - 1
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth === 128)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_edge_follows_mouse_and_keys(page):
    assert (role_at(page, 0.3), role_at(page, 0.7)) == ("lq", "model")
    left, top, width, height = page.box(".viewer")
    middle = top + height / 2
    page.mouse("mousePressed", left + 0.5 * width, middle)
    page.mouse("mouseMoved", left + 0.85 * width, middle)
    assert role_at(page, 0.7) == "lq"
    page.mouse("mouseMoved", left + 0.1 * width, middle)
    page.mouse("mouseReleased", left + 0.1 * width, middle)
    assert role_at(page, 0.3) == "model"
    page.mouse("mouseMoved", left + 0.9 * width, middle)  # released: it stays
    assert role_at(page, 0.3) == "model"
    page.evaluate("document.querySelector('.viewer input').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="End", code="End", windowsVirtualKeyCode=35)
    assert role_at(page, 0.9) == "lq"


def test_the_edge_follows_a_finger(page):
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    left, top, width, height = page.box(".viewer")
    for kind, share in (("touchStart", 0.5), ("touchMove", 0.7), ("touchMove", 0.9)):
        points = [{"x": left + share * width, "y": top + height / 2}]
        page.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert role_at(page, 0.7) == "lq"


def test_sides_can_be_chosen(page):
    page.click("[data-side=left] [data-role=champion]")
    assert (role_at(page, 0.3), role_at(page, 0.7)) == ("champion", "model")
    page.click("[data-side=right] [data-role=hq]")
    assert (role_at(page, 0.3), role_at(page, 0.7)) == ("champion", "hq")
    assert page.evaluate("document.querySelector('.viewer .label.left').textContent") == "Champion (v2)"
    page.click("[data-side=left] [data-role=hq]")  # already on the right: the sides change places
    assert (role_at(page, 0.3), role_at(page, 0.7)) == ("hq", "champion")
    page.click("[data-side=right] [data-role=other]")
    assert role_at(page, 0.7) == "other"
    second = "figure:nth-of-type(2) .viewer"
    assert role_at(page, 0.7, second) is None, "the other method has no image here"
    assert role_at(page, 0.3, second) == "hq"


def test_a_double_click_looks_closer(page):
    page.click("[data-side=right] [data-role=hq]")
    left, top, width, height = page.box(".viewer")
    x, y = left + 0.02 * width, top + 0.02 * height
    assert role_at(page, 0.5, down=0.5) in ("lq", "hq", None)
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.mouse(kind, x, y, clicks)
    # The black quarter of the corner now fills the viewer, right of the edge at 2 percent.
    picture = page.screenshot()
    assert picture[int(top + 0.8 * height), int(left + 0.8 * width)].sum() < 12
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.mouse(kind, x, y, clicks)
    assert page.screenshot()[int(top + 0.8 * height), int(left + 0.8 * width)].sum() > 700


@pytest.mark.parametrize("width", [1200, 400])
def test_long_names_stay_where_they_belong_and_keep_their_order(width, tmp_path):
    name = "a_method_whose_name_is_" + "very_" * 6 + "long"
    rows = make_rows({"bicubic": 0.0, name: 0.3, "model": 0.6}, num_images=2)
    rows = rows.assign(key=rows["key"].map({"image00": "(0)", "image01": "_1."}))
    html = render_report(make_summary(rows, "3"), rows, [], CONFIG).replace("<details>", "<details open>")
    (tmp_path / "report.html").write_text(html)
    leaves = "[...document.querySelectorAll('.pill')].some((p) => p.scrollWidth > p.clientWidth || \
        p.getBoundingClientRect().right > p.closest('.tile, td').getBoundingClientRect().right)"
    bracket = "(at) => { const range = document.createRange(), bdi = [...document.querySelectorAll('bdi')].find((e) => \
        e.textContent === '(0)'); range.setStart(bdi.firstChild, at); range.setEnd(bdi.firstChild, at + 1); \
        return range.getBoundingClientRect().left; }"
    with Page(tmp_path / "profile", (tmp_path / "report.html").as_uri(), width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert not page.evaluate(leaves)
        assert page.evaluate(f"({bracket})(0) < ({bracket})(2)"), "the key reads from left to right"
