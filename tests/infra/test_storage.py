"""Storage: the same contract for folders and for a real S3 server, and one clear line for what can go wrong."""

import re

import pytest

from infra import storage, storage_s3_client
from infra.errors import JobError, UsageError


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3")


def test_round_trip_listing_and_delete(root, tmp_path):
    url = storage.join(root, "a", "one.bin")
    assert not storage.exists(url)
    storage.write_bytes(url, b"one")
    storage.write_json(storage.join(root, "b.json"), {"x": 1})
    assert storage.exists(url)
    assert storage.exists(storage.join(root, "a"))
    assert storage.size(url) == 3
    assert storage.read_bytes(url) == b"one"
    assert storage.read_json(storage.join(root, "b.json")) == {"x": 1}
    assert next((entry.name, entry.size) for entry in storage.list_files(root)) == ("a/one.bin", 3)
    assert [entry.name for entry in storage.list_files(root, suffix=".json")] == ["b.json"]
    storage.delete(url)
    storage.delete(url)
    assert not storage.exists(url)


def test_if_absent_has_one_winner(root):
    url = storage.join(root, "commit.json")
    assert storage.write_bytes(url, b"first", if_absent=True)
    assert not storage.write_bytes(url, b"second", if_absent=True)
    assert storage.read_bytes(url) == b"first"
    assert storage.write_bytes(url, b"third")
    assert storage.read_bytes(url) == b"third"


def test_upload_and_download_a_file_of_several_parts(root, tmp_path):
    payload = bytes(range(256)) * (40 << 12)  # 40 MiB: more than one part of a multipart upload
    local, back = tmp_path / "big.bin", tmp_path / "back.bin"
    local.write_bytes(payload)
    storage.upload(local, storage.join(root, "big.bin"))
    storage.download(storage.join(root, "big.bin"), back)
    assert back.read_bytes() == payload


def test_a_part_of_a_file(root):
    url = storage.join(root, "letters")
    storage.write_bytes(url, b"abcdefghij")
    assert storage.read_range(url, 3, 4) == b"defg"
    assert storage.read_range(url, 8, 4) == b"ij"
    assert storage.read_range(url, 3, 0) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_range(storage.join(root, "absent"), 0, 4)


def test_local_folder_brings_everything(root, tmp_path):
    storage.write_bytes(storage.join(root, "x", "y.txt"), b"y")
    folder = storage.local_folder(root, tmp_path / "cache")
    assert (folder / "x" / "y.txt").read_bytes() == b"y"


def test_missing_file(root):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "nothing"))


def test_wrong_scheme():
    with pytest.raises(UsageError, match="scheme 'gs://' is not supported"):
        storage.exists("gs://bucket/x")


def test_missing_bucket(s3):
    with pytest.raises(JobError, match="the bucket does not exist"):
        list(storage.list_files("s3://no-such-bucket/x"))


def test_wrong_secret_is_one_line_without_the_secret(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    storage_s3_client.forget_clients()
    with pytest.raises(JobError, match="refused the credentials") as raised:
        storage.write_bytes(storage.join(s3, "x"), b"x")
    assert "wrong-secret" not in str(raised.value)


def test_endpoint_that_is_down(monkeypatch):
    for name, value in (("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "us-east-1"),
                        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9")):  # fmt: skip
        monkeypatch.setenv(name, value)
    storage_s3_client.forget_clients()
    with pytest.raises(JobError, match=r"http://127\.0\.0\.1:9 cannot be used"):
        storage.read_bytes("s3://bucket/x")
    storage_s3_client.forget_clients()


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("infra.storage_disk.os.fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(str(tmp_path / "x"), b"x")
    assert list(tmp_path.iterdir()) == []


def test_order_of_a_listing_is_that_of_whole_paths(root):
    names = ["a-b.png", "a/b.png", "a/c/d.png", "a0.png", "B.png"]
    for name in names:
        storage.write_bytes(storage.join(root, *name.split("/")), b"x")
    assert [entry.name for entry in storage.list_files(root)] == sorted(names)


def test_a_streamed_file_appears_when_it_is_whole(root):
    url = storage.join(root, "streamed")
    with storage.open_write(url) as sink:
        sink.write(b"one")
        assert not storage.exists(url)
        sink.write(b"two")
    assert storage.read_bytes(url) == b"onetwo"
    with pytest.raises(KeyError):
        write_half(url)
    assert storage.read_bytes(url) == b"onetwo"
    with storage.open_write(url, if_absent=True) as sink:
        sink.write(b"four")
    assert sink.created is False
    assert storage.read_bytes(url) == b"onetwo"
    assert storage.clear_unfinished(root) == 0


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JobError, match="cannot be written"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"x")


def write_half(url: str) -> None:
    with storage.open_write(url) as sink:
        sink.write(b"half")
        raise KeyError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "is empty; give a folder or s3://bucket/prefix"),
        ("file://", "is empty; give a folder"),
        ("a\0b", "url 'a\\x00b': holds a zero byte"),
        ("s3://", "names no bucket; write s3://bucket/prefix"),
        ("s3:///x", "names no bucket"),
        ("s3:/bucket/x", "names no bucket"),
        ("S3:/bucket/x", "names no bucket"),
        ("S3://bucket/x", "scheme 'S3://' is not supported"),
        ("FILE:///x", "scheme 'FILE://' is not supported"),
    ],
)
def test_slips_of_the_pen_become_no_folder(url, expected):
    for use in (storage.join, storage.absolute, storage.exists, lambda url: storage.write_bytes(url, b"x")):
        with pytest.raises(UsageError, match=re.escape(expected)):
            use(url)


def test_a_name_that_s3_does_not_take(s3):
    with pytest.raises(UsageError, match="S3 knows no such bucket or key; write s3://bucket/prefix"):
        storage.exists("s3://No bucket!/x")


def test_a_place_that_cannot_be_read(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for read, url in (
        (storage.read_json, tmp_path / "file" / "x.json"),
        (storage.read_json, tmp_path),
        (storage.sha256, tmp_path),
        (lambda url: storage.download(url, tmp_path / "copy"), tmp_path),
        (storage.exists, tmp_path / ("x" * 300)),
        (lambda url: list(storage.list_files(url)), tmp_path / ("x" * 300)),
    ):
        with pytest.raises(JobError, match=r": cannot be read \(.+\); correct the path, its rights or its disk$"):
            read(str(url))
    with pytest.raises(FileNotFoundError):
        storage.read_json(str(tmp_path / "absent.json"))
