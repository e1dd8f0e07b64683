"""Folders, lists and tars: the same photos in a stable order with a digest; what cannot be a source is one line."""

import errno
import os
import re
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra import storage
from infra.errors import JobError, UsageError
from pipelines.decode import Rejected
from pipelines.samples import load_photo
from pipelines.source import list_source
from pipelines.source_pairs import match_lq
from tests.pipelines.conftest import NAMES, listed, planned_samples, read, write_tar


def faults(uri) -> dict[str, tuple[str, str]]:
    source = list_source(str(uri))
    images = source.images(np.arange(source.num_images))
    return {image.name: (image.fault.reason, image.fault.detail) for image in images if image.fault}


def test_a_tree_is_listed_in_the_order_of_its_paths(photos, tmp_path):
    for place in ("b/2.png", "b.png", "a/z.JPG", "a.png", "B.png", "b/notes.md"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "coffee.png", tmp_path / place)
    assert listed(tmp_path) == ["B.png", "a.png", "a/z.JPG", "b.png", "b/2.png"]


def test_links_are_followed_and_broken_ones_rejected(photos, recipe, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "folder").symlink_to(photos)
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    samples, rejects = planned_samples(recipe, source)
    assert {sample["record"]["source"] for sample in samples.values()} == {f"folder/{name}" for name in NAMES}
    assert [(reject.uri, reject.reason) for reject in rejects] == [("gone.png", "missing")] * 3
    (source / "loop").symlink_to(tmp_path)
    with pytest.raises(JobError, match="loop: is a link to a folder above itself; remove it"):
        list_source(str(source))


def test_the_digest_follows_names_and_sizes(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    before = list_source(str(folder)).digest
    assert before == list_source(str(photos)).digest
    (folder / "coffee.png").write_bytes((folder / "coffee.png").read_bytes() + b"x")
    longer = list_source(str(folder)).digest
    (folder / "coffee.png").rename(folder / "tea.png")
    assert len({before, longer, list_source(str(folder)).digest}) == 3


def test_a_folder_on_s3_is_the_same_source(photos, s3):
    for name in NAMES:
        storage.upload(photos / name, storage.join(s3, name))
    assert list_source(s3).digest == list_source(str(photos)).digest
    assert read(s3) == read(photos)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EACCES, Rejected), (errno.ELOOP, Rejected), (errno.EIO, JobError), (errno.ESTALE, JobError)],
)
def test_an_image_that_may_not_be_read_is_rejected_a_sick_disk_is_not(number, expected, photos, monkeypatch):
    def fail(url):
        raise OSError(number, os.strerror(number), url)

    monkeypatch.setattr(storage, "read_bytes", fail)
    source = list_source(str(photos))
    with pytest.raises(expected, match=re.escape(os.strerror(number))):
        load_photo(source.images(np.arange(1))[0], 64, 4)


@pytest.mark.parametrize("kind", ["folder", "tar", "list", "lq"])
def test_a_source_that_is_not_there_for_a_worker_ends_the_job(kind, photos, tars, tmp_path):
    """Thousands of images missing at once are a mount that is missing, no rejects."""
    folder = shutil.copytree(photos, tmp_path / "mount" / "photos")
    (folder / "list.txt").write_text("coffee.png\n")
    lq = shutil.copytree(photos, tmp_path / "mount" / "lq")
    uri, root = {"folder": (folder, folder), "tar": (tars, tars / "00.tar"), "list": (folder / "list.txt", folder),
                 "lq": (photos, lq)}[kind]  # fmt: skip
    source = list_source(str(uri)) if kind != "lq" else match_lq(list_source(str(uri)), str(lq))
    (image,) = source.images(np.arange(1))
    shutil.rmtree(tars if kind == "tar" else root)
    with pytest.raises(JobError, match=re.escape(f"source '{root}': is not there on ")):
        load_photo(image, 64, 4)


def test_a_missing_image_of_a_source_that_is_there_is_rejected(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text(str(folder / "astronaut.png"))
    sources = [list_source(str(folder)), list_source(str(tmp_path / "lists" / "list.txt"))]
    (folder / "astronaut.png").unlink()
    shutil.rmtree(tmp_path / "lists")  # a worker needs no list, and nobody knows which mount an absolute name needs
    for source in sources:
        with pytest.raises(Rejected, match="missing"):
            load_photo(source.images(np.arange(1))[0], 64, 4)


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_an_empty_image_in_a_tar_is_rejected(place, data, recipe, tmp_path, request):
    tar = str(write_tar(tmp_path / "x.tar", [("a.png", b""), ("b.png", data["coffee.png"])]))
    if place == "s3":
        url = storage.join(request.getfixturevalue("s3"), "x.tar")
        storage.upload(tmp_path / "x.tar", url)
        tar = url
    samples, rejects = planned_samples(recipe, tar)
    assert len(samples) == 3
    assert {(reject.uri, reject.reason) for reject in rejects} == {("x.tar/a.png", "unreadable")}


@pytest.mark.parametrize("place", ["folder", "brace", "list", "s3"])
def test_images_in_tars_are_read_by_their_place(place, tars, data, request, tmp_path):
    uri = {"folder": tars, "brace": f"{tars}/{{00..01}}.tar", "list": tmp_path / "tars.txt", "s3": ""}[place]
    if place == "list":
        uri.write_text("tars/00.tar\ntars/01.tar\n")
    if place == "s3":
        uri = request.getfixturevalue("s3")
        for tar in tars.iterdir():
            storage.upload(tar, storage.join(uri, tar.name))
    expected = {
        "00.tar/a.png": data["astronaut.png"],
        "00.tar/b.png": data["chelsea.png"],
        "01.tar/deep/a.png": data["coffee.png"],
        f"01.tar/{'long' * 60}.png": data["chelsea.png"],
    }
    assert read(uri) == expected


def test_samples_from_a_tar_are_those_of_a_folder(tars, recipe, tmp_path):
    folder = tmp_path / "00.tar.unpacked"
    with tarfile.open(tars / "00.tar") as tar:
        tar.extractall(folder, filter="data")
    from_tar, rejects = planned_samples(recipe, tars / "00.tar")
    assert not rejects
    assert (
        sorted(sample["record"]["source"] for sample in from_tar.values())
        == ["00.tar/a.png"] * 3 + ["00.tar/b.png"] * 3
    )
    for sample in from_tar.values():
        crop = sample["record"]["crop"]
        photo = np.asarray(Image.open(folder / sample["record"]["source"].removeprefix("00.tar/")))
        hq = photo[crop["top"] : crop["top"] + 64, crop["left"] : crop["left"] + 64]
        np.testing.assert_array_equal(sample["hq"], hq[:, ::-1] if sample["record"]["horizontal_flip"] else hq)


def test_faults_of_tars(tmp_path, data):
    members = [
        ("a.png", data["coffee.png"]),
        ("a.jpg", b"x"),
        ("b/a.png", b"y"),
        ("a.seg.png", b"z"),
        ("c.png", b"c" * 5000),
    ]
    tar = write_tar(tmp_path / "x.tar", members)
    assert faults(tar) == {
        "x.tar/a.jpg": ("duplicate_key", "the tar holds a.png of the same key"),
        "x.tar/a.seg.png": ("duplicate_key", "the tar holds a.png of the same key"),
    }


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_tars_are_rejected(kind, tmp_path, data, recipe):
    tar = write_tar(tmp_path / "x.tar", [("a.png", data["coffee.png"])])
    with tarfile.open(tar, "a") as file:
        for name in ("b.png", "notes.txt"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.png"
            file.addfile(link)
    samples, rejects = planned_samples(recipe, tar)
    assert {sample["record"]["source"] for sample in samples.values()} == {"x.tar/a.png"}
    assert [(reject.uri, reject.reason) for reject in rejects] == [("x.tar/b.png", "link")] * 3
    assert rejects[0].detail == "leads to a.png; pack it with tar --dereference --hard-dereference"


def bad_parquet(path):
    pq.write_table(pa.table({"uri": [1, 2]}), path)


def damaged_page(path):
    pq.write_table(pa.table({"uri": ["a.png"] * 50_000}), path)
    data = bytearray(path.read_bytes())
    data[20:60] = bytes(40)
    path.write_bytes(data)


def cut_tar(path):
    write_tar(path, [("a.png", b"a" * 5000)]).write_bytes(path.read_bytes()[:3000])


def mixed(path):
    path.mkdir()
    write_tar(path / "x.tar", [("a.png", b"x")])
    (path / "b.png").write_bytes(b"y")


def latin_name(path):
    path.mkdir()
    with open(bytes(path) + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123 (a Path cannot hold it)
        file.write(b"x")


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("photos", lambda path: None, "does not exist; give a folder"),
        ("photos", lambda path: path.mkdir(), "holds no image; expected files ending in .jpg"),
        ("photo.jpg", lambda path: path.write_bytes(b"x"), "is one file; give its folder, or a list"),
        ("photos", mixed, "holds images and tars; keep one kind"),
        ("photos", latin_name, r"the name 'caf\udce9.png' is not UTF-8; rename it"),
        ("list.txt", lambda path: path.mkdir(), "cannot be read (Is a directory); mend or remove it"),
        ("list.parquet", damaged_page, "list.parquet': "),
        ("list.txt", lambda path: path.write_text("a.png\ns3://\n"), "url 's3://': names no bucket"),
        ("list.txt", lambda path: path.write_text("a.png\ns3:/bucket/b.png\n"), "url 's3:/bucket/b.png': names no"),
        ("list.txt", lambda path: path.write_text("a.png\nS3://bucket/b.png\n"), "scheme 'S3://' is not supported"),
        ("list.txt", lambda path: path.write_text("# nothing\n"), "names no image; write one URI per row"),
        (
            "list.txt",
            lambda path: path.write_text("ftp://host/a.png\n"),
            "url 'ftp://host/a.png': scheme 'ftp://'",
        ),
        ("list.txt", lambda path: path.write_text("a.png\nb.tar\n"), "names images and 1 tars; make two lists"),
        ("list.txt", lambda path: path.write_text("b.tar\n"), "b.tar': does not exist; correct its name"),
        ("list.txt", lambda path: path.write_text("b.tar\nb.tar\n"), "names a tar twice"),
        ("list.txt", lambda path: path.write_bytes(b"ok.png\n\xff\xfe\n"), "line 2: is not UTF-8 text"),
        ("list.txt", lambda path: path.write_bytes("ok.png\n".encode("utf-16-le")), "holds a zero byte"),
        ("list.parquet", lambda path: path.write_bytes(b"x" * 20), "is not a readable Parquet file"),
        ("list.parquet", bad_parquet, "column 'uri' holds int64; it must hold strings"),
        (
            "list.parquet",
            lambda path: pq.write_table(pa.table({"n": [1]}), path),
            "no column holds strings (columns: n)",
        ),
        (
            "list.parquet",
            lambda path: pq.write_table(pa.table({"uri": ["a.png", None]}), path),
            "row 1: column 'uri' is",
        ),
        ("x.tar", lambda path: path.write_bytes(b"no tar" * 200), "is damaged or no tar"),
        ("x.tar", lambda path: path.mkdir(), "x.tar': cannot be read (Is a directory); mend or remove it"),
        ("x.tar", cut_tar, "is damaged or no tar (unexpected end of data); replace it"),
        ("x.tar", lambda path: write_tar(path, [("a.json", b"{}")]), "its 1 tars hold no image"),
        ("{00..01.tar", lambda path: None, "the braces do not match"),
        ("{00..01}.tar", lambda path: None, "00.tar': does not exist; correct its name"),
    ],
)
def test_bad_sources_are_one_line(name, make, expected, tmp_path):
    make(tmp_path / name)
    with pytest.raises(UsageError, match=re.escape(expected)) as raised:
        list_source(str(tmp_path / name))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["folder", "tar", "lq", "s3"])
def test_an_image_that_changed_since_it_was_listed_ends_the_job(kind, photos, tars, tmp_path, request):
    """Its dataset's plan names the source by its sizes."""
    folder = shutil.copytree(photos, tmp_path / "photos")
    place = request.getfixturevalue("s3") if kind == "s3" else str(folder)
    if kind == "s3":
        storage.upload(photos / "astronaut.png", storage.join(place, "astronaut.png"))
    source = {"tar": lambda: list_source(str(tars)), "lq": lambda: match_lq(list_source(str(photos)), place)}.get(
        kind, lambda: list_source(place)
    )()
    (image,) = source.images(np.arange(1))
    changed = str(tars / "00.tar") if kind == "tar" else storage.join(place, "astronaut.png")
    storage.write_bytes(changed, storage.read_bytes(changed)[:1000])
    with pytest.raises(JobError, match=rf"source '{changed}': changed since it was listed, from \d+ bytes to \d+; put"):
        load_photo(image, 64, 1)
