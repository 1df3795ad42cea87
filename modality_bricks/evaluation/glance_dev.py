"""Draws the pictures that the router is measured on: photos, charts, receipts, screenshots of web pages, photos of text.

Nothing here is shared with the pictures that `glance` learns from: pages are rendered by a browser from HTML, in other
fonts, with other texts, and the camera is another model (a pinhole that is turned and moved). Training never reads this.
"""

import base64
import html
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from mattoni.errors import MattoniError
from mattoni.lines import json_rows
from modality_bricks.evaluation.glance_dev_charts import browser_charts, report_pages
from modality_bricks.training.charts.draw import draw_chart
from modality_bricks.training.charts.styles import HELD_OUT
from modality_bricks.training.packs import captioned_pictures, sheet_tiles

Random = np.random.Generator
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Shown:
    """A picture, what it is, and which brick it is for."""

    image: Image.Image
    sort: str
    brick: str


def equalised(picture: Image.Image, rng: Random) -> Image.Image:
    """Square, of one of four sizes, and grey in half of the cases: drawn without looking at what the picture is."""
    side = int(rng.choice([64, 144, 224, 336]))
    square = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return square.convert("L").convert("RGB") if rng.random() < 0.5 else square


def dev_pictures(data: Path, seed: int = 0) -> Iterator[Shown]:
    """200 photos and 200 documents of the dev packs and of drawn pages, then 200 charts, before they are equalised."""
    vision = data / "vision"
    rng = np.random.default_rng(seed)
    tiles, _ = sheet_tiles([vision / "tinyimagenet-dev-000.tar"])
    flickr = [image for _, image, _ in captioned_pictures(vision / "flickr8k-dev-000.tar.gz")]
    rooms = [image for _, image, _ in captioned_pictures(vision / "daquar-dev-images.tar.gz")]
    for row in rng.permutation(len(tiles))[:80]:
        yield Shown(Image.fromarray(tiles[row]), "photo, Tiny ImageNet", "photo")
    for row in rng.permutation(len(flickr))[:80]:
        yield Shown(flickr[row], "photo, Flickr8k", "photo")
    for row in rng.permutation(len(rooms))[:40]:
        yield Shown(rooms[row], "photo, DAQUAR", "photo")
    receipts = [image for _, image, _ in captioned_pictures(vision / "receipts-dev.tar")]
    for image in receipts:
        yield Shown(image, "receipt", "document")
    texts = dev_texts(data)
    pages = list(render(_html_pages(rng, texts, rooms + flickr[:100], 140)))
    for page in pages[:80]:
        yield Shown(page, "screenshot of a web page", "document")
    for number in range(60):
        page = receipts[number] if number % 6 == 0 else pages[80 + number]
        ground = flickr[int(rng.integers(len(flickr)))]
        yield Shown(photographed(page, ground, rng), "photo of text", "document")
    # A generator of their own, so that the pictures above stay what they were before there were charts.
    rng = np.random.default_rng([seed, 1])
    drawn = list(render(browser_charts(rng, texts, 120)))
    for chart in drawn[:100]:
        yield Shown(chart, "chart, by a browser", "chart")
    styled = [draw_chart(rng, HELD_OUT)[0] for _ in range(80)]
    for chart in styled[:70]:
        yield Shown(chart, "chart, matplotlib in held-out styles", "chart")
    for chart in drawn[100:] + styled[70:]:
        ground = flickr[int(rng.integers(len(flickr)))]
        yield Shown(photographed(chart, ground, rng), "photo of a chart", "chart")


def dev_reports(data: Path, seed: int = 0, count: int = 40) -> Iterator[Image.Image]:
    """Screenshots of reports: text with a chart among it, for which neither brick is wrong."""
    return render(report_pages(np.random.default_rng([seed, 2]), dev_texts(data), count))


def dev_texts(data: Path) -> list[str]:
    """Passages that no training picture's words are from."""
    return [row.value["text"] for row in json_rows(data / "text" / "reading-passages-dev.jsonl")]


# --- web pages ---


def _html_pages(
    rng: Random, texts: list[str], photos: list[Image.Image], count: int
) -> Iterator[tuple[str, tuple[int, int]]]:
    """HTML and size of the window, template after template."""
    for number in range(count):
        body = TEMPLATES[number % len(TEMPLATES)](rng, texts, photos)
        dark = rng.random() < 0.2
        ink, paper = ("#ddd", "#181a1b") if dark else ("#222", rng.choice(["#fff", "#fafafa", "#fffdf4"]))
        font = rng.choice(["DejaVu Sans", "DejaVu Sans Condensed", "DejaVu Sans Mono", "sans-serif"])
        style = f"body{{font:{rng.integers(12, 20)}px/{rng.uniform(1.2, 1.7):.2f} '{font}';color:{ink};"
        style += f"background:{paper};margin:{rng.integers(0, 40)}px}} img{{object-fit:cover}}"
        window = (int(rng.choice([390, 768, 1024, 1280])), int(rng.integers(560, 1000)))
        yield f"<!doctype html><meta charset=utf-8><style>{style}</style>{body}", window


def _text(rng: Random, texts: list[str], words: int) -> str:
    found = texts[int(rng.integers(len(texts)))].split()
    start = int(rng.integers(max(1, len(found) - words)))
    return html.escape(" ".join(found[start : start + words]))


def _img(rng: Random, photos: list[Image.Image], size: str) -> str:
    file = io.BytesIO()
    photos[int(rng.integers(len(photos)))].save(file, "jpeg")
    return f"<img style='{size}' src='data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def _article(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    picture = _img(rng, photos, "width:100%;height:220px") if rng.random() < 0.6 else ""
    body = "".join(f"<p>{_text(rng, texts, 70)}</p>" for _ in range(6))
    return f"<h1>{_text(rng, texts, 7)}</h1><small>{_text(rng, texts, 4)}</small>{picture}{body}"


def _shop(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    items = "".join(
        f"<div style='border:1px solid #bbb;padding:8px'>{_img(rng, photos, 'width:100%;height:90px')}"
        f"<b>{_text(rng, texts, 4)}</b><br>€ {rng.uniform(2, 300):.2f}<br><button>Add to basket</button></div>"
        for _ in range(12)
    )
    return f"<h2>Shop</h2><div style='display:grid;grid-template-columns:repeat(3,1fr);gap:10px'>{items}</div>"


def _form(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    rows = "".join(
        f"<p><label>{_text(rng, texts, 2)}</label><br><input style='width:80%' value='{_text(rng, texts, 3)}'></p>"
        for _ in range(9)
    )
    return f"<h2>{_text(rng, texts, 4)}</h2><form>{rows}<button>Send</button> <button>Cancel</button></form>"


def _results(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    one = "<p><a href=x>{}</a><br><small style='color:green'>https://{}.example</small><br>{}</p>"
    return "<input style='width:60%' value='search'>" + "".join(
        one.format(_text(rng, texts, 6), _text(rng, texts, 1).strip("."), _text(rng, texts, 28)) for _ in range(9)
    )


def _table(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{_text(rng, texts, 2) if c == 0 else rng.integers(9999)}</td>" for c in range(6))
        + "</tr>"
        for _ in range(22)
    )
    return f"<h3>{_text(rng, texts, 5)}</h3><table border=1 cellpadding=5 width=100%>{rows}</table>"


def _forum(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    posts = "".join(
        f"<div style='display:flex;gap:12px;border-top:1px solid #999;padding:10px'>"
        f"{_img(rng, photos, 'width:44px;height:44px;border-radius:22px')}<div><b>{_text(rng, texts, 1)}</b> "
        f"{rng.integers(1, 59)} min<br>{_text(rng, texts, int(rng.integers(8, 50)))}</div></div>"
        for _ in range(8)
    )
    return f"<h2>{_text(rng, texts, 6)}</h2>{posts}"


def _code(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    lines = "\n".join(
        "  " * int(rng.integers(4)) + f"{_text(rng, texts, 1)}({_text(rng, texts, 2)})" for _ in range(18)
    )
    box = f"<pre style='background:#2b2b2b;color:#9fdf9f;padding:12px'>{lines}</pre>"
    return f"<h2>{_text(rng, texts, 3)}</h2><p>{_text(rng, texts, 40)}</p>{box}<p>{_text(rng, texts, 40)}</p>"


def _inbox(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    row = "<div style='border-bottom:1px solid #ccc;padding:7px;white-space:nowrap;overflow:hidden'>"
    mails = "".join(f"{row}☐ <b>{_text(rng, texts, 2)}</b> — {_text(rng, texts, 14)}</div>" for _ in range(20))
    return f"<div style='background:#1a5fb4;color:white;padding:12px'>Mail</div>{mails}"


def _letter(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    body = "".join(f"<p style='text-align:justify'>{_text(rng, texts, 80)}</p>" for _ in range(4))
    return f"<div style='padding:50px'><p align=right>{_text(rng, texts, 6)}</p><h3>{_text(rng, texts, 5)}</h3>{body}</div>"


def _columns(rng: Random, texts: list[str], photos: list[Image.Image]) -> str:
    body = "".join(f"<p>{_text(rng, texts, 60)}</p>" for _ in range(14))
    return f"<h1 align=center>{_text(rng, texts, 5)}</h1><div style='column-count:3'>{body}</div>"


TEMPLATES: tuple[Callable[[Random, list[str], list[Image.Image]], str], ...] = (
    _article, _shop, _form, _results, _table, _forum, _code, _inbox, _letter, _columns,
)  # fmt: skip


def render(pages: Iterator[tuple[str, tuple[int, int]]]) -> Iterator[Image.Image]:
    """Pages as a browser shows them. Raises MattoniError where there is none: words alone would be other pictures."""
    browser = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if browser is None:
        raise MattoniError("The dev pages are drawn by chromium, which is not installed: install it and measure again.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page()
        for page, (width, height) in pages:
            tab.set_viewport_size({"width": width, "height": height})
            tab.set_content(page)
            yield Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        chromium.close()


# --- photos of text ---


def photographed(page: Image.Image, ground: Image.Image, rng: Random) -> Image.Image:
    """A page before a camera that is turned about all three axes, with a lamp, a shadow, blur and JPEG's traces."""
    size = (640, 480) if rng.random() < 0.5 else (480, 640)
    scene = ImageOps.fit(ground, size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(rng.uniform(0, 6)))
    w, h = page.size
    half = np.array([[-w, -h, 0], [w, -h, 0], [w, h, 0], [-w, h, 0]]) / (2 * max(w, h))
    x, y, z = rng.normal(0, [0.3, 0.3, 0.2])
    turn_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    seen = half @ (turn_z @ turn_y @ turn_x).T + np.array([*rng.uniform(-0.08, 0.08, 2), rng.uniform(0.9, 1.4)])
    corners = seen[:, :2] / seen[:, 2:] * 0.95 * max(size) + np.array(size) / 2
    rows, wanted = [], []
    for (u, v), (a, b) in zip(corners, [(0, 0), (w, 0), (w, h), (0, h)], strict=True):
        rows += [[u, v, 1, 0, 0, 0, -a * u, -a * v], [0, 0, 0, u, v, 1, -b * u, -b * v]]
        wanted += [a, b]
    numbers = [float(n) for n in np.linalg.solve(np.array(rows), np.array(wanted))]
    warped = page.transform(size, Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC)
    inside = Image.new("L", page.size, 255).transform(size, Image.Transform.PERSPECTIVE, numbers)
    scene.paste(warped, mask=inside)
    v, u = np.mgrid[0 : size[1], 0 : size[0]]
    lamp = rng.uniform(0, 1, 2) * size
    light = 1.15 * np.exp(-((u - lamp[0]) ** 2 + (v - lamp[1]) ** 2) / (2 * (rng.uniform(0.5, 1.5) * max(size)) ** 2))
    hand = rng.uniform(0, 1, 2) * size
    near = ((u - hand[0]) ** 2 + (v - hand[1]) ** 2) < (rng.uniform(0.05, 0.3) * max(size)) ** 2
    shadow = np.asarray(Image.fromarray((near * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(18))) / 255
    shade = np.asarray(scene, dtype=np.float64) * (light * (1 - 0.4 * shadow))[..., None] + rng.normal(
        0, 4, (*v.shape, 1)
    )
    file = io.BytesIO()
    Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(rng.uniform(0, 1.3))).save(
        file, "jpeg", quality=int(rng.integers(40, 90))
    )
    return Image.open(file).convert("RGB")
