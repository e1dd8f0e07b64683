"""make_shard: the first record names its own bytes, whatever stands beside it and whoever comes second."""

import pytest

from infra import storage
from infra.errors import JobError
from infra.storage_s3_client import Unreachable
from pipelines import shard
from pipelines.dataset import freeze_plan
from pipelines.shard import clear_leftovers, make_shard, read_record, read_shard, record_url, tar_url

OURS = [{"__key__": "000000-000000", "json": b"{}"}]
THEIRS = [{"__key__": "000000-000000", "json": b'{"by":"another version"}'}]


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path) -> str:
    return str(tmp_path / "out") if request.param == "folder" else request.getfixturevalue("s3")


def stored(url: str) -> list[bytes]:
    record = read_record(url, 0)
    assert record is not None
    assert storage.sha256(tar_url(url, record)) == record.sha256
    return [sample["json"] for sample in read_shard(url, record, check=True)]


def names(url: str) -> list[str]:
    return [entry.name for entry in storage.list_files(url)]


def test_a_tar_that_a_killed_job_left_is_taken_over(url):
    first = make_shard(url, 0, OURS)
    storage.delete(record_url(url, 0))
    second = make_shard(url, 0, OURS)
    assert (second.sha256, second.tar) == (first.sha256, "")
    assert names(url) == ["shards/000000.json", "shards/000000.tar"]


def test_a_tar_left_by_another_version_is_not_believed(url):
    make_shard(url, 0, THEIRS)
    storage.delete(record_url(url, 0))
    record = make_shard(url, 0, OURS)
    assert record.tar.startswith("000000-")
    assert stored(url) == [b"{}"]
    clear_leftovers(url, [record])
    assert names(url) == [f"shards/{record.tar}", "shards/000000.json"]
    assert stored(url) == [b"{}"]


@pytest.mark.parametrize("other", [OURS, THEIRS])
def test_the_second_takes_the_record_of_the_first(url, other):
    """Another job commits while this one is still writing."""

    def overtaken():
        yield from OURS
        make_shard(url, 0, other)

    assert make_shard(url, 0, overtaken()) == read_record(url, 0)
    assert stored(url) == [other[0]["json"]]
    assert names(url) == ["shards/000000.json", "shards/000000.tar"]


@pytest.mark.parametrize("other", [OURS, THEIRS])
def test_the_first_has_its_tar_in_place_but_commits_later(url, other, monkeypatch):
    """This job's tar stands under the usual name when another job, with equal or other bytes, commits before it."""
    write_json = storage.write_json

    def overtaken(*arguments, **options):
        monkeypatch.setattr(storage, "write_json", write_json)
        make_shard(url, 0, other)
        return write_json(*arguments, **options)

    monkeypatch.setattr(storage, "write_json", overtaken)
    assert make_shard(url, 0, OURS) == read_record(url, 0)
    assert stored(url) == [other[0]["json"]]
    assert len(names(url)) == 2


def test_a_write_cleared_away_by_the_job_that_finished(url):
    """The other job committed and tidied up while this one was writing."""

    def overtaken():
        yield from OURS
        yield {"__key__": "000000-000001", "bin": bytes(9 << 20)}
        standing = make_shard(url, 0, THEIRS)
        clear_leftovers(url, [standing])

    assert make_shard(url, 0, overtaken()) == read_record(url, 0)
    assert stored(url) == [THEIRS[0]["json"]]
    assert len(names(url)) == 2


def test_a_store_that_is_gone_is_not_asked_for_a_record(tmp_path, monkeypatch):
    """Every question would take its half minute again."""

    def lost():
        yield from OURS
        raise Unreachable("gone")

    monkeypatch.setattr(shard, "read_record", lambda *_: pytest.fail("asked"))
    with pytest.raises(Unreachable):
        make_shard(str(tmp_path), 0, lost())


def test_tars_that_no_job_of_this_plan_wrote_stay(url):
    record = make_shard(url, 0, OURS)
    strangers = ["000001.tar", "mine.tar", "sub/000000.tar", "000000-photos.tar", "000001-00000000.tar"]
    for name in [*strangers, "000000-0123abcd.tar"]:
        storage.write_bytes(storage.join(url, "shards", name), b"x")
    clear_leftovers(url, [record])
    assert set(names(url)) == {"shards/000000.json", "shards/000000.tar", *(f"shards/{name}" for name in strangers)}


def test_a_race_that_nobody_won_is_an_error(tmp_path, monkeypatch):
    """A store that says that the file exists, and has none."""
    monkeypatch.setattr(storage, "write_json", lambda *_, **__: False)
    with pytest.raises(JobError, match=r"000000\.json: another job wrote it first, and now it is gone; run the same"):
        make_shard(str(tmp_path), 0, OURS)
    with pytest.raises(JobError, match=r"dataset\.json: another job wrote it first, and now it is gone; run the same"):
        freeze_plan(str(tmp_path), {"plan_hash": "x"})
