"""report.html: complete in itself, escaped, and alive in a real browser where one is installed."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from degradations import build
from degradations.words import describe_record
from evaluation.pictures import choose_keys
from evaluation.report import Picture, render_report
from evaluation.strip_plot import MARGIN, WIDTH, strip_plot
from evaluation.summary import rank_images, summarize
from evaluation.table import summary_table
from tests.evaluation.logged import CONFIG, make_rows, make_summary

DRAWN = build("realesrgan", scale=4).draw(64, 64, seed=1)
RECORD = {"source": "<b>photo</b>.png", "degradation": DRAWN.model_dump(mode="json")}


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.fixture
def report(rng):
    rows = make_rows({"bicubic": 0.0, "model": 0.6, "champion": 0.3}, num_images=6)
    summary = make_summary(rows, "3", champion="2")
    pictures = []
    for key in choose_keys(summary["ranking"], 4):
        images = {role: rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for role in ("lq", "model", "champion", "hq")}
        pictures.append(Picture(key, images, RECORD))
    return render_report(summary, rows, pictures, 40), pictures


def test_nothing_is_fetched_from_anywhere(report):
    html, _ = report
    for tag, attributes in Tags(html).found:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            if attributes.get(name) is not None:
                assert attributes[name].startswith(("data:", "#")), (tag, name, attributes[name][:40])
        assert tag not in ("iframe", "object", "embed")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert not re.search(r"url\(", html)
    assert "default-src 'none'" in html


def test_images_are_inline_and_lossless(report):
    html, pictures = report
    images = [attributes for tag, attributes in Tags(html).found if tag == "img"]
    assert len(images) == 4 * 4
    first = next(image for image in images if image["data-role"] == "model")
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["src"].partition(",")[2]))))
    np.testing.assert_array_equal(decoded, pictures[0].images["model"][4:44, 12:52])  # the middle 40x40
    assert "The middle 40 px of 64×48." in html


def test_says_what_was_done_and_escapes_what_others_named(report):
    html, _ = report
    for phrase in describe_record(RECORD["degradation"]):
        assert phrase in html
    assert "<b>photo</b>" not in html
    assert "&lt;b&gt;photo&lt;/b&gt;.png" in html


def test_figures_hold_model_bicubic_and_champion(report):
    html, _ = report
    for text in ("Champion (v2)", "Improvement over bicubic", "Improvement over the champion (v2)", "95%", "worst"):
        assert text in html


def test_failures_are_shown(rng):
    rows = make_rows({"bicubic": 0.0, "model": -0.6}, num_images=6, failed=2)
    html = render_report(make_summary(rows, "1"), rows, [], 64)
    assert "2 images could not be measured" in html
    assert "the sample is damaged" in html


def test_worst_images_come_first():
    rows = make_rows({"bicubic": 0.0, "model": 0.5}, num_images=5)
    rows.loc[(rows["key"] == "image03") & (rows["method"] == "model"), "psnr_y"] -= 5
    rows.loc[(rows["key"] == "image01") & (rows["method"] == "model"), "psnr_y"] += 5
    ranking = rank_images(rows, ("psnr_y",))
    assert (ranking[0], ranking[-1]) == ("image03", "image01")
    assert choose_keys(ranking, 4) == [*ranking[:3], "image01"]
    assert choose_keys(ranking, 9) == ranking


def test_a_metric_without_values_is_said_to_be_missing():
    rows = make_rows({"bicubic": 0.0, "model": 0.5}).assign(ssim_y=np.nan)
    figures = summarize(rows, CONFIG)["metrics"]["ssim_y"]
    assert figures["num_images"] == 0
    assert "not measured" in render_report(make_summary(rows, "1"), rows, [], 64)
    printer = Console(width=120, record=True, file=io.StringIO())
    printer.print(summary_table(make_summary(rows, "1")))
    assert "SSIM-Y ↑" in printer.export_text()


def test_means_are_taken_over_images_that_every_method_has():
    rows = make_rows({"bicubic": 0.0, "model": 0.5}, num_images=6)
    rows.loc[(rows["key"] == "image00") & (rows["method"] == "model"), "psnr_y"] = np.nan
    figures = summarize(rows, CONFIG)["metrics"]["psnr_y"]
    complete = rows[(rows["key"] != "image00") & (rows["method"] == "bicubic")]["psnr_y"]
    assert figures["num_images"] == 5
    assert figures["methods"]["bicubic"]["mean"] == pytest.approx(complete.mean())


def test_strip_plot_keeps_everything_inside(rng):
    values = rng.normal(1.0, 2.0, 500)
    plot = strip_plot(values, {"mean": values.mean(), "low": 0.8, "high": 1.2})
    for x in (plot["zero"], plot["mean"], *plot["bar"], *(x for x, _ in plot["dots"])):
        assert MARGIN <= x <= WIDTH - MARGIN
    assert len(plot["dots"]) <= 300
    assert strip_plot(np.zeros(3), {"mean": 0.0, "low": None, "high": None})["bar"] is None


PROBE = """
<script>
window.addEventListener("load", () => {
  const viewer = document.querySelector(".viewer"), range = viewer.querySelector("input");
  const box = viewer.getBoundingClientRect();
  range.value = 20; range.dispatchEvent(new Event("input"));
  const byKey = viewer.style.getPropertyValue("--cut");
  const touch = {clientX: box.left + 0.75 * box.width, pointerId: 1, pointerType: "touch"};
  viewer.setPointerCapture = () => {};
  viewer.dispatchEvent(new PointerEvent("pointerdown", touch));
  const result = {
    byKey, byTouch: viewer.style.getPropertyValue("--cut"),
    shown: [...document.images].every((image) => image.complete && image.naturalWidth === 40),
    wide: document.documentElement.scrollWidth <= window.innerWidth,
    before: viewer.querySelector("img.left").dataset.role,
  };
  document.querySelectorAll(".segmented button")[1].click();
  result.after = viewer.querySelector("img.left").dataset.role + "|" + viewer.querySelector("img.right").dataset.role;
  result.label = viewer.querySelector(".label.left").textContent;
  result.fetched = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length;
  document.title = JSON.stringify(result);
});
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_slider_works_in_a_browser(report, tmp_path, width):
    page = tmp_path / "report.html"
    page.write_text(report[0] + PROBE)
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--dump-dom", page.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", dumped, re.DOTALL)
    assert title is not None
    assert json.loads(title.group(1)) == {
        "byKey": "20%",
        "byTouch": "75%",
        "shown": True,
        "wide": True,
        "before": "lq",
        "after": "champion|model",
        "label": "Champion (v2)",
        "fetched": 0,
    }


def test_rows_survive_parquet(rng):
    from evaluation.rows import decode_rows, encode_frame, encode_rows

    rows = make_rows({"bicubic": 0.0, "model": 0.5}, failed=1)
    once = decode_rows(encode_rows(rows.drop(columns=["image", "error"]).to_dict("records")))
    pd.testing.assert_frame_equal(decode_rows(encode_frame(once)), once)
    assert list(once["key"]) == list(rows["key"])
