"""Lists of URIs, as text and as Parquet: read as meant, whatever wrote them; rows that name no image are rejects."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import storage
from tests.pipelines.conftest import NAMES, listed, planned_samples, read


def test_a_byte_order_mark_and_capitals_do_not_matter(photos, tars, tmp_path):
    uris = [str(photos / name) for name in NAMES]
    (tmp_path / "LIST.TXT").write_text("\n".join(uris), encoding="utf-8-sig")
    pq.write_table(pa.table({"uri": uris}), tmp_path / "LIST.PARQUET")
    assert listed(tmp_path / "LIST.TXT") == listed(tmp_path / "LIST.PARQUET") == uris
    (tars / "00.tar").rename(tmp_path / "00.TAR")
    (tmp_path / "tars.txt").write_text("00.TAR")
    assert listed(tmp_path / "00.TAR") == listed(tmp_path / "tars.txt") == ["00.TAR/a.png", "00.TAR/b.png"]


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_lists_name_images_in_their_order(kind, photos, tmp_path):
    uris = [str(photos / "coffee.png"), "near.png", f"file://{photos}/chelsea.png"]
    shutil.copy(photos / "astronaut.png", tmp_path / "near.png")
    path = tmp_path / f"list.{kind}"
    if kind == "txt":
        path.write_text("\n".join(["# my photos", "", *uris]))
    else:
        pq.write_table(pa.table({"width": [1, 2, 3], "caption": ["x", "y", "z"], "uri": uris}), path)
    assert listed(path) == uris
    assert list(read(path).values()) == [(photos / name).read_bytes() for name in ("coffee.png", *NAMES[:2])]


def test_parquet_without_uri_takes_its_first_strings(photos, tmp_path, s3):
    table = pa.table({"width": [1], "path": pa.array([str(photos / "coffee.png")], pa.large_string()), "more": ["x"]})
    pq.write_table(table, tmp_path / "list.parquet")
    storage.upload(tmp_path / "list.parquet", storage.join(s3, "list.parquet"))
    assert listed(storage.join(s3, "list.parquet")) == listed(tmp_path / "list.parquet") == [str(photos / "coffee.png")]


def test_a_repeated_uri_is_rejected_once_per_sample(photos, recipe, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(photos / name) for name in ("coffee.png", "chelsea.png", "coffee.png")))
    samples, rejects = planned_samples(recipe, listing)
    assert len(samples) == 6
    assert [reject.reason for reject in rejects] == ["duplicate_key"] * 3
    assert {reject.detail for reject in rejects} == {"row 3 repeats row 1 of the list"}


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_rows_that_name_no_image_are_rejected(place, photos, recipe, tmp_path, request):
    root = str(tmp_path) if place == "folder" else request.getfixturevalue("s3")
    storage.upload(photos / "coffee.png", storage.join(root, "folder", "coffee.png"))
    rows = ["folder/coffee.png", "folder", "gone.png"]
    if place == "folder":
        rows += ["folder/coffee.png/below.png", "x" * 300 + ".png"]
    else:
        rows.append("s3://tests/")
    listing = storage.join(root, "list.txt")
    storage.write_bytes(listing, "\n".join(rows).encode())
    samples, rejects = planned_samples(recipe, listing)
    assert {sample["record"]["source"] for sample in samples.values()} == {"folder/coffee.png"}
    found = {reject.uri: reject.reason for reject in rejects}
    expected = dict.fromkeys(rows[1:], "missing")
    expected |= {"folder": "unreadable"} if place == "folder" else {"s3://tests/": "unreadable"}
    assert found == expected
