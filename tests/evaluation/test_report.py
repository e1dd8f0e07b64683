"""report.html and the figures in it: complete in itself, escaped, paired."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from degradations import build
from degradations.words import describe_record
from evaluation.pictures import choose_keys
from evaluation.report import render_report
from evaluation.report_figures import all_rows
from evaluation.report_gallery import Picture
from evaluation.strip_plot import MARGIN, WIDTH, strip_plot
from evaluation.summary import rank_images, summarize
from evaluation.table import extreme_lines, summary_table
from tests.evaluation.logged import CONFIG, make_rows, make_summary

DRAWN = build("realesrgan", scale=4).draw(64, 64, seed=1)
SMALL = CONFIG.model_copy(update={"report_image_size": 40})
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
    return render_report(summary, rows, pictures, SMALL), pictures


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
    assert "fetch(" not in html
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
    html = render_report(make_summary(rows, "1"), rows, [], CONFIG)
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
    assert "not measured" in render_report(make_summary(rows, "1"), rows, [], CONFIG)
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


def test_other_methods_are_compared_on_what_they_restored():
    rows = make_rows({"bicubic": 0.0, "swinir": 0.2, "model": 0.5, "champion": 0.4}, num_images=6)
    missing = (rows["method"] == "swinir") & rows["key"].isin(["image00", "image04"])
    rows.loc[missing, ["status", "error", "psnr_y", "ssim_y"]] = ["failed", "there is no image", np.nan, np.nan]
    summary = make_summary(rows, "1", champion="2")
    figures = summary["metrics"]["psnr_y"]
    assert list(figures["methods"]) == ["bicubic", "swinir", "champion", "model"]
    assert figures["num_images"] == 6, "what another method lacks takes nothing from the figures of the model"
    assert figures["improvement_over"]["swinir"]["num_images"] == 4
    assert figures["improvement_over"]["bicubic"]["num_images"] == 6
    values = rows[~rows["key"].isin(["image00", "image04"])].pivot(index="key", columns="method", values="psnr_y")
    expected = (values["model"] - values["swinir"]).mean()
    assert figures["improvement_over"]["swinir"]["mean"] == pytest.approx(expected)
    assert summary["failed"] == []
    assert [item["key"] for item in summary["failed_others"]["swinir"]] == ["image00", "image04"]
    html = render_report(summary, rows, [], CONFIG)
    assert "has no usable output for 2 images" in html
    assert "Improvement over swinir" in html
    mean, gain = (figures[part]["swinir"]["mean"] for part in ("methods", "improvement_over"))
    assert f"swinir {mean:.2f} on 4 images" in html, "in the tile"
    assert f'{mean:.2f}<br><span class="soft small">on 4 images</span></td>' in html, "in the table of means"
    assert html.count("on 4 images") == 6, "of each metric, in the tile, beside the mean and the improvement"
    printer = Console(width=200, record=True, file=io.StringIO())
    printer.print(summary_table(summary))
    text = printer.export_text()
    assert "improvement over swinir" in text
    assert f"{mean:.2f}" in text
    assert f"{gain:+.2f}" in text
    assert text.count("on 4 images") == 4


def test_images_that_nobody_could_measure_are_not_laid_to_another_method():
    rows = make_rows({"bicubic": 0.0, "swinir": 0.2, "model": 0.5}, num_images=6, failed=2)
    missing = (rows["method"] == "swinir") & (rows["key"] == "image03")
    rows.loc[missing, ["status", "error"]] = ["failed", "there is no image"]
    summary = make_summary(rows, "1")
    assert [item["key"] for item in summary["failed"]] == ["image00", "image01"]
    assert [item["key"] for item in summary["failed_others"]["swinir"]] == ["image03"]
    assert "has no usable output for 1 image;" in render_report(summary, rows, [], CONFIG)


def test_an_image_without_a_value_of_bicubic_shows_no_difference():
    rows = make_rows({"bicubic": 0.0, "model": 0.5}, num_images=3)
    rows.loc[(rows["key"] == "image01") & (rows["method"] == "bicubic"), "ssim_y"] = np.nan
    shown = {row["key"]: row["cells"] for row in all_rows(make_summary(rows, "1"), rows)}
    value = rows[(rows["key"] == "image01") & (rows["method"] == "model")]["ssim_y"].item()
    assert shown["image01"][1] == {"value": f"{value:.4f}", "change": ""}
    assert shown["image00"][1]["change"]


def test_worst_and_best_images_are_listed_by_metric_and_reference():
    rows = make_rows({"bicubic": 0.0, "model": 0.5, "champion": 0.4}, num_images=12)
    rows.loc[(rows["key"] == "image03") & (rows["method"] == "model"), "ssim_y"] = 0.1
    rows.loc[(rows["key"] == "image07") & (rows["method"] == "champion"), "ssim_y"] = 0.1
    extremes = make_summary(rows, "3", champion="2")["extremes"]["ssim_y"]
    assert extremes["bicubic"]["worst"][0][0] == "image03"
    assert extremes["champion"]["best"][0][0] == "image07"
    assert len(extremes["champion"]["worst"]) == len(extremes["champion"]["best"]) == 5
    first, *_, last = extreme_lines(make_summary(rows, "3", champion="2"))
    assert re.fullmatch(r"PSNR-Y improves least over bicubic: image\d\d \+0\.\d\d(, image\d\d \+0\.\d\d){2}", first)
    assert last.startswith("PSNR-Y improves most over champion: ")
    gains = [gain for _, gain in extremes["bicubic"]["worst"]]
    assert gains == sorted(gains)


def test_images_stop_where_the_file_would_become_too_large(rng):
    rows = make_rows({"bicubic": 0.0, "model": 0.5}, num_images=6)
    summary = make_summary(rows, "1")
    pictures = [
        Picture(key, {role: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for role in ("lq", "model", "hq")}, {})
        for key in summary["ranking"]
    ]
    html = render_report(summary, rows, pictures, CONFIG.model_copy(update={"report_megabytes": 0.16}))
    shown = re.findall(r'id="case-(image\d+)"', html)
    # About 17 kB an image: three pictures of three images fit, two of the worst and the best.
    assert shown == [summary["ranking"][index] for index in (0, 1, 5)]
    assert "3 of 6 images (3 more would make this file too large)" in html
    assert len(html) < 0.25e6


def test_a_record_of_another_version_is_said_to_be_one(rng):
    rows = make_rows({"bicubic": 0.0, "model": 0.5}, num_images=2)
    summary = make_summary(rows, "1")
    images = {role: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for role in ("lq", "model", "hq")}
    record = {"degradation": {**RECORD["degradation"], "steps": [{"op": "a step of the future"}]}}
    pictures = [Picture(key, images, record) for key in summary["ranking"]]
    assert "degraded by another version" in render_report(summary, rows, pictures, CONFIG)


def test_rows_survive_parquet(rng):
    from evaluation.rows import decode_rows, encode_frame, encode_rows

    rows = make_rows({"bicubic": 0.0, "model": 0.5}, failed=1)
    once = decode_rows(encode_rows(rows.drop(columns=["image", "error"]).to_dict("records")))
    pd.testing.assert_frame_equal(decode_rows(encode_frame(once)), once)
    assert list(once["key"]) == list(rows["key"])
