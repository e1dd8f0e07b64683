"""What stands in records about the code that wrote them."""

from importlib.metadata import version

from infra.version import code_version


def test_without_git_the_version_stands_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version.__wrapped__() == version("resshift-foundry")
