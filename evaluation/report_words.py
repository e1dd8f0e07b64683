"""How the report puts things: names of methods, numbers with their signs and units, verdicts."""

from collections.abc import Mapping
from typing import Any

from evaluation.metrics import METRICS
from evaluation.rows import BICUBIC, CHAMPION, MODEL

LQ, HQ = "lq", "hq"  # with the names of the methods: the roles of the images of a picture
MINUS = "\N{MINUS SIGN}"


def verdict(improvement: Mapping[str, Any]) -> str:
    """`better` or `worse` when the interval is clear of zero, else `even`."""
    low, high = improvement["low"], improvement["high"]
    if low is not None and low > 0:
        return "better"
    return "worse" if high is not None and high < 0 else "even"


def labels_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """What a person reads for each method and role; another method keeps its name."""
    enlarged = summary["protocol"]["scale"] > 1
    champion = summary["champion"]
    return {
        LQ: "LQ, bicubic" if enlarged else "LQ",
        BICUBIC: "Bicubic" if enlarged else "Input",
        **{name: name for name in summary["others"]},
        CHAMPION: f"Champion (v{champion['version']})" if champion else "Champion",
        MODEL: "Result",
        HQ: "HQ",
    }


def in_sentence(method: str, labels: Mapping[str, str]) -> str:
    """A method inside a sentence: `bicubic`, `the champion (v2)`, or another method's name as it is."""
    label = labels[method]
    if method not in (BICUBIC, CHAMPION, MODEL):
        return label
    return ("the " if method == CHAMPION else "") + label[0].lower() + label[1:]


def fewer(interval: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """`on 4 images` where a figure rests on fewer images than the metric's others, else nothing."""
    count = interval["num_images"]
    return "" if count == figures["num_images"] else f"on {count} image{'' if count == 1 else 's'}"


def value_text(name: str, value: float) -> str:
    """A metric's figure with its decimals."""
    return f"{value:.{METRICS[name].decimals}f}".replace("-", MINUS)


def signed_text(name: str, value: float) -> str:
    """A difference of a metric, always with its sign."""
    return f"{value:+.{METRICS[name].decimals}f}".replace("-", MINUS)


def unit_text(name: str) -> str:
    """A metric's unit with a space before it, or nothing."""
    return f" {METRICS[name].unit}" if METRICS[name].unit else ""
