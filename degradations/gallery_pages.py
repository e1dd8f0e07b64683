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
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; background: #fff; color: #222 }
.sheet { display: flex; flex-wrap: wrap; gap: 1.2rem }
figure { margin: 0; width: 256px }
img { width: 256px; display: block; image-rendering: pixelated }
figcaption { font-size: 12px; margin-top: .3rem; overflow-wrap: anywhere }
"""
_COLUMNS = 4
_GAP = 12
_LINE = 15


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
    page = Image.new("RGB", (width, height), "white")
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
    cell_width = max(picture.image.shape[1] for picture in pictures) + _GAP
    text_lines = max(len(picture.lines) for picture in pictures)
    cell_height = max(picture.image.shape[0] for picture in pictures) + text_lines * _LINE + _GAP
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * cell_width + _GAP, rows * cell_height + 2 * _LINE + _GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    pen.text((_GAP, _GAP // 2), title, fill="black", font=ImageFont.load_default(size=16))
    for index, picture in enumerate(pictures):
        left = _GAP + index % columns * cell_width
        top = 2 * _LINE + index // columns * cell_height
        page.paste(Image.fromarray(picture.image), (left, top))
        for line, text in enumerate(picture.lines):
            pen.text((left, top + picture.image.shape[0] + 2 + line * _LINE), text, fill="black", font=font)
    return page
