"""Rendering a gallery: one self-contained HTML page, or one PNG."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]


class Picture(Protocol):
    """An image and what to write under it."""

    @property
    def image(self) -> Pixels: ...

    @property
    def lines(self) -> tuple[str, ...]: ...


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1120px; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2rem 0 .8rem; border-bottom: 1px solid #ddd }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, 256px); gap: 1.4rem }
figure { margin: 0 }
img { width: 256px; display: block; image-rendering: pixelated; border-radius: 4px }
figcaption { font-size: 12.5px; margin-top: .4rem; color: #555; overflow-wrap: anywhere }
figcaption::first-line { color: #1a1a1a }
"""
_COLUMNS = 4
_GAP = 14
_LINE = 16
_HEADING = 46
_PAPER, _INK, _GRAY = "#ffffff", "#1a1a1a", "#555555"


def write_html(title: str, draws: Sequence[Picture], chain: Sequence[Picture], out: Path) -> None:
    """Writes the page; images travel inside it as PNG."""
    out.write_text(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<h2>Draws</h2>{_figures(draws)}<h2>The first draw, step by step</h2>{_figures(chain)}</html>",
        encoding="utf-8",
    )


def write_png(title: str, draws: Sequence[Picture], chain: Sequence[Picture], out: Path) -> None:
    """Writes the two sheets, one above the other."""
    parts = [_grid(title, draws), _grid("the first draw, step by step", chain)]
    width, height = max(part.width for part in parts), sum(part.height for part in parts)
    page = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    page.save(out, optimize=True)


def _figures(pictures: Sequence[Picture]) -> str:
    return "<div class='sheet'>" + "".join(map(_figure, pictures)) + "</div>"


def _figure(picture: Picture) -> str:
    ok, buffer = cv2.imencode(".png", cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR))
    assert ok
    data = base64.b64encode(buffer.tobytes()).decode()
    caption = "<br>".join(map(html.escape, picture.lines))
    return f"<figure><img src='data:image/png;base64,{data}' alt=''><figcaption>{caption}</figcaption></figure>"


def _grid(title: str, pictures: Sequence[Picture]) -> Image.Image:
    """A title and rows of pictures, each row as high as its longest caption needs."""
    font, heading = ImageFont.load_default(size=12), ImageFont.load_default(size=18)
    cell = max(picture.image.shape[1] for picture in pictures)
    captions = [[part for line in picture.lines for part in _wrapped(line, font, cell)] for picture in pictures]
    columns = min(_COLUMNS, len(pictures))
    rows = [range(first, min(first + columns, len(pictures))) for first in range(0, len(pictures), columns)]
    heights = [
        max(pictures[i].image.shape[0] for i in row) + max(len(captions[i]) for i in row) * _LINE + 2 * _GAP
        for row in rows
    ]
    page = Image.new("RGB", (columns * (cell + _GAP) + _GAP, _HEADING + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_GAP, _GAP), title, fill=_INK, font=heading)
    top = _HEADING
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = _GAP + column * (cell + _GAP)
            page.paste(Image.fromarray(pictures[i].image), (left, top))
            for line, text in enumerate(captions[i]):
                below = top + pictures[i].image.shape[0] + 5 + line * _LINE
                pen.text((left, below), text, fill=_INK if line == 0 else _GRAY, font=font)
        top += height
    return page


def _wrapped(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """`line` in parts no wider than `width` pixels, the later ones indented."""
    parts: list[str] = []
    for word in line.split():
        if parts and font.getlength(f"{parts[-1]} {word}") <= width:
            parts[-1] += f" {word}"
        else:
            parts.append(word if not parts else f"   {word}")
    return parts
