"""Progress where there is no terminal: plain lines that a log can hold."""

from types import SimpleNamespace

from infra import progress as module
from infra.progress import progress


def test_lines_say_how_far_and_how_long(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(module, "PLAIN_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    with progress("pairs", total=3, unit="pairs") as bar:
        bar.advance(0, rejected=0)
        now += 2.0
        bar.advance(1)
        now += 4000.0
        bar.advance(1, loss=0.12345)
    assert capsys.readouterr().err.splitlines() == [
        "pairs: 0/3 pairs rejected 0",  # nobody knows the rate yet
        "pairs: 1/3 pairs, 0.5 pairs/s, 4 s left rejected 0",
        "pairs: 2/3 pairs, 0.0005 pairs/s, 0:33:21 left rejected 0 loss 0.1235",
        "pairs: 2/3 pairs, 0.0005 pairs/s, 1:06:42 rejected 0 loss 0.1235",
    ]
