"""What a user gets wrong about the place of the output: one clear line, exit code 1, and no secret anywhere."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from infra import storage
from tests.faults.conftest import environment, make_pairs_command, run, wait_for
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.faults
SECRET = "do-not-show-this-secret"


@pytest.mark.parametrize(
    ("changed", "bucket", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "tests", "S3 refused the credentials (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "tests", "S3 refused the credentials (InvalidAccessKeyId)"),
        ({}, "nowhere", "the bucket does not exist; create it or correct the URL"),
        ({"AWS_ENDPOINT_URL": f"http://me:{SECRET}@127.0.0.1:9"}, "tests", "S3 at http://127.0.0.1:9 cannot be used"),
        ({"AWS_ENDPOINT_URL": "silent"}, "tests", "cannot be used (ReadTimeoutError); is it up?"),
    ],
    ids=["wrong secret", "wrong key", "no bucket", "refused", "silent"],
)
def test_storage_that_cannot_be_used(s3_server, photos, tmp_path, changed, bucket, expected):
    with Proxy(s3_server["AWS_ENDPOINT_URL"]) as silent:
        silent.silent = True
        if changed.get("AWS_ENDPOINT_URL") == "silent":
            changed = {"AWS_ENDPOINT_URL": silent.url}
        settings = {**s3_server, "AWS_SECRET_ACCESS_KEY": s3_server["AWS_SECRET_ACCESS_KEY"], **changed}
        done = run(make_pairs_command(photos, f"s3://{bucket}/out"), settings, timeout=60)
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    for secret in (SECRET, s3_server["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in done.stdout + done.stderr


def test_a_store_that_falls_silent_in_mid_run(s3_server, eight_photos, s3):
    """It accepts connections and never answers, which no error of a socket tells."""
    with Proxy(s3_server["AWS_ENDPOINT_URL"]) as proxy:
        settings = environment({**s3_server, "AWS_ENDPOINT_URL": proxy.url})
        command = make_pairs_command(eight_photos, f"{s3}/out", "--workers", "2")
        job = subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(list(storage.list_files(f"{s3}/out/shards", ".json"))) >= 2, job)
        proxy.silent, start = True, time.monotonic()
        _, complained = job.communicate(timeout=120)
        seconds = time.monotonic() - start
    assert job.returncode == 1
    errors = [line for line in complained.splitlines() if not line.startswith("pairs:")]
    assert len(errors) == 1, complained
    assert "cannot be used (" in errors[0]
    assert seconds < 45, "two reads of 12 s, and the end of the job"


def test_no_credentials_at_all(photos, tmp_path):
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    done = run(make_pairs_command(photos, "s3://tests/out"), settings)
    assert done.returncode == 1
    assert "no S3 credentials (NoCredentialsError); set AWS_ACCESS_KEY_ID" in done.stderr


def test_a_full_disk(eight_photos, tmp_path):
    """A file system of 3 MB in a namespace of its own; the shards need twice that."""
    out = tmp_path / "small"
    out.mkdir()
    namespace = ["unshare", "--map-root-user", "--mount"]
    allowed = shutil.which("unshare") and subprocess.run([*namespace, "true"], check=False, capture_output=True)
    if not allowed or allowed.returncode:
        pytest.skip("this machine does not let a user mount a small file system")
    mounted = f'mount -t tmpfs -o size=3m tmpfs {out} && "$@"; code=$?; ls -A {out}/shards >&2; exit $code'
    command = [*namespace, "sh", "-c", mounted, "sh", *make_pairs_command(eight_photos, out, "--workers", "2")]
    done = run(command)
    assert done.returncode == 1
    error, *listed = [line for line in done.stderr.splitlines() if not line.startswith("pairs:")]
    assert "No space left on device; free some space and run the same command again" in error
    assert not [name for name in listed if name.startswith(".tmp-")]
    tars, records = ({Path(name).stem for name in listed if name.endswith(end)} for end in (".tar", ".json"))
    assert records
    assert records <= tars


def test_a_read_only_place(photos):
    done = run(make_pairs_command(photos, "/proc/nowhere/out"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_secrets_stay_out_of_all_logs(s3_server, photos, tmp_path):
    """A whole run on S3, with everything Ray writes in a folder of its own: the secret stands in no file of it."""
    logs = Path("/tmp") / f"ray-{tmp_path.name[-20:]}"
    settings = {**s3_server, "RAY_TMPDIR": str(logs), "RESSHIFT_DEBUG": "1"}
    try:
        done = run(make_pairs_command(photos, f"s3://tests/{tmp_path.name}", "--workers", "1"), settings)
        assert done.returncode == 0, done.stderr
        texts = [done.stdout, done.stderr]
        texts += [path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file()]
        assert len(texts) > 5
        assert not [text for text in texts if s3_server["AWS_SECRET_ACCESS_KEY"] in text]
    finally:
        shutil.rmtree(logs, ignore_errors=True)


def test_an_unreachable_cluster_is_one_line(photos, tmp_path):
    done = run(make_pairs_command(photos, tmp_path / "out"), {"RAY_ADDRESS": "127.0.0.1:9"})
    assert done.returncode == 1, done.stderr
    assert "RAY_ADDRESS 127.0.0.1:9: no Ray cluster answers there" in done.stderr.splitlines()[-1]
