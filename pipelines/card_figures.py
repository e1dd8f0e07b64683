"""The pictures of a dataset card: pairs side by side, and a histogram for every parameter."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from degradations.words import describe_record
from pipelines.card_samples import Parameter

SIDE = 176
COLUMNS = 3
GAP = 16
LINE = 15
PAPER, INK, GRAY, BAR, RULE = "#ffffff", "#1a1a1a", "#5c5c5c", "#3b6ea5", "#d0d0d0"
PAIRS = 12
CELL = 2 * SIDE
WIDTH = COLUMNS * (CELL + GAP) + GAP
PANEL_COLUMNS = 4
PANEL = (WIDTH - GAP) // PANEL_COLUMNS - GAP
PANEL_HEIGHT = 88
BINS = 32


def contact_sheet(samples: Sequence[dict[str, Any]]) -> np.ndarray:
    """A few pairs spread over `samples`, LQ left (its pixels enlarged, not smoothed) and HQ right. uint8 (H, W, 3)."""
    chosen = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, PAIRS).astype(int))]
    columns = min(COLUMNS, len(chosen))
    captions = [_caption(sample) for sample in chosen]
    lines = max(len(caption) for caption in captions)
    height = SIDE + lines * LINE + GAP
    page = Image.new("RGB", (WIDTH, GAP + -(-len(chosen) // columns) * height), PAPER)
    pen, font = ImageDraw.Draw(page), _font()
    for i, (sample, caption) in enumerate(zip(chosen, captions, strict=True)):
        left, top = GAP + i % columns * (CELL + GAP), GAP + i // columns * height
        page.paste(Image.fromarray(_thumbnail(sample["lq"], cv2.INTER_NEAREST)), (left, top))
        page.paste(Image.fromarray(_thumbnail(sample["hq"], cv2.INTER_AREA)), (left + SIDE, top))
        for number, line in enumerate(caption):
            pen.text((left, top + SIDE + 2 + number * LINE), line, fill=GRAY if number else INK, font=font)
    return np.asarray(page)


def draw_histograms(parameters: Sequence[Parameter]) -> np.ndarray:
    """A panel for every parameter, each with its own range from the least to the most value. uint8 (H, W, 3)."""
    rows = -(-len(parameters) // PANEL_COLUMNS)
    height = LINE + PANEL_HEIGHT + LINE + GAP
    page = Image.new("RGB", (WIDTH, rows * height + GAP * bool(rows)), PAPER)
    pen, font = ImageDraw.Draw(page), _font()
    for i, parameter in enumerate(parameters):
        left, top = GAP + i % PANEL_COLUMNS * (PANEL + GAP), i // PANEL_COLUMNS * height
        base = top + LINE + PANEL_HEIGHT
        pen.text((left, top), _fitting(parameter.name, font, PANEL), fill=INK, font=font)
        counts, _ = parameter.histogram(BINS)
        for number, count in enumerate(counts):
            x, right = (left + PANEL * place / len(counts) for place in (number, number + 1))
            tall = round((PANEL_HEIGHT - 8) * count / max(counts.max(), 1))
            if tall:
                pen.rectangle((round(x), base - tall, max(round(right) - 2, round(x)), base), fill=BAR)
        pen.line((left, base, left + PANEL, base), fill=RULE)
        low, middle, high = (f"{value:.4g}" for value in parameter.quantiles())
        pen.text((left, base + 2), low, fill=GRAY, font=font)
        pen.text((left + PANEL / 2, base + 2), f"median {middle}", fill=GRAY, font=font, anchor="ma")
        pen.text((left + PANEL, base + 2), high, fill=GRAY, font=font, anchor="ra")
    return np.asarray(page)


def stack(pages: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one width, one above the other."""
    return np.vstack(pages)


def _caption(sample: dict[str, Any]) -> list[str]:
    """Where it came from, and in two more lines what was done to it."""
    record, font = sample["record"], _font()
    title = _drawable(f"{record['source']}, variant {record['variant']}")
    lines = [title if font.getlength(title) <= CELL else _fitting(title[::-1], font, CELL)[::-1]]  # the end tells more
    line = ""
    for phrase in _phrases(record["degradation"]):
        longer = f"{line}; {phrase}" if line else phrase
        if line and font.getlength(longer) > CELL:
            lines.append(line)
            longer = phrase
        line = longer
    lines.append(line)
    if len(lines) > 3:
        lines = [*lines[:2], lines[2] + " …"]
    return [_fitting(line, font, CELL) for line in lines]


def _phrases(degradation: dict[str, Any]) -> list[str]:
    try:
        return describe_record(degradation)
    except ValueError:
        return ["degraded by another version, whose record this one cannot read"]


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu where it is installed (matplotlib brings it), for names of other scripts; else that of Pillow, Latin."""
    spec = find_spec("matplotlib")
    place = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec and spec.origin else None
    if place is not None and place.is_file():
        return ImageFont.truetype(str(place), 10, layout_engine=ImageFont.Layout.BASIC)
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=11))


@cache
def _is_drawable(character: str) -> bool:
    """True if the font has it: what it lacks is drawn as that which no font has."""
    return character.isprintable() and _glyph(character) != _glyph("\U0010ffff")


def _glyph(character: str) -> tuple[tuple[int, int], bytes]:
    mask = _font().getmask(character)
    return mask.size, bytes(mask)


def _drawable(text: str) -> str:
    """The text with a question mark for what would be an empty box or a new line."""
    return "".join(one if _is_drawable(one) else "?" for one in text)


def _fitting(text: str, font: Any, width: float) -> str:
    """The beginning of a text, as far as the width allows."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _thumbnail(image: np.ndarray, interpolation: int) -> np.ndarray:
    return cv2.resize(image, (SIDE, SIDE), interpolation=interpolation)
