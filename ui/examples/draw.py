"""Draws the example pictures of an empty conversation: `python -m ui.examples.draw`. Knows nothing of the page."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FOLDER = Path(__file__).parent


def font(size: int, mono: bool = False, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, from the copy that comes with matplotlib."""
    from matplotlib import get_data_path

    name = f"DejaVuSans{'Mono' if mono else ''}{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


def receipt() -> Image.Image:
    """A till receipt on thermal paper, a little tilted."""
    paper = Image.new("RGB", (560, 760), "#fbfaf6")
    pen = ImageDraw.Draw(paper)
    pen.text((280, 50), "CORNER BAKERY", font=font(34, mono=True, bold=True), fill="#222", anchor="mm")
    pen.text((280, 92), "12 Mill Lane", font=font(22, mono=True), fill="#333", anchor="mm")
    lines = [
        ("2 Croissant", "4.40"),
        ("1 Rye bread", "3.60"),
        ("1 Coffee", "2.80"),
        ("1 Orange juice", "3.20"),
    ]
    top = 160
    for name, price in lines:
        pen.text((50, top), name, font=font(26, mono=True), fill="#222")
        pen.text((510, top), price, font=font(26, mono=True), fill="#222", anchor="ra")
        top += 48
    pen.line((50, top + 12, 510, top + 12), fill="#555", width=2)
    for name, price, bold in (("TOTAL", "$14.00", True), ("Cash", "$20.00", False), ("Change", "$6.00", False)):
        top += 50
        pen.text((50, top), name, font=font(30 if bold else 26, mono=True, bold=bold), fill="#111")
        pen.text((510, top), price, font=font(30 if bold else 26, mono=True, bold=bold), fill="#111", anchor="ra")
    pen.text((280, 640), "14 May 2026  09:12", font=font(22, mono=True), fill="#333", anchor="mm")
    pen.text((280, 690), "THANK YOU", font=font(26, mono=True), fill="#222", anchor="mm")
    table = Image.new("RGB", (760, 960), "#8a6a4f")
    turned = paper.rotate(1.5, expand=True, fillcolor="#8a6a4f", resample=Image.Resampling.BICUBIC)
    table.paste(turned, ((760 - turned.width) // 2, (960 - turned.height) // 2))
    return table


def screenshot() -> Image.Image:
    """A window with a message, as a screen would show it."""
    screen = Image.new("RGB", (1000, 620), "#3d5a80")
    pen = ImageDraw.Draw(screen)
    pen.rounded_rectangle((120, 90, 880, 530), 14, fill="#ffffff")
    pen.rounded_rectangle((120, 90, 880, 140), 14, fill="#e9ecf1")
    pen.rectangle((120, 120, 880, 140), fill="#e9ecf1")
    for place, colour in enumerate(("#ee6a5f", "#f5bd4f", "#61c454")):
        pen.ellipse((140 + 28 * place, 106, 156 + 28 * place, 122), fill=colour)
    pen.text((500, 115), "Calendar", font=font(20, bold=True), fill="#333", anchor="mm")
    pen.text((170, 190), "Meeting moved", font=font(38, bold=True), fill="#1d2733")
    pen.text((170, 265), "The team meeting is now on Thursday", font=font(26), fill="#333")
    pen.text((170, 308), "at 15:30 in room 204.", font=font(26), fill="#333")
    pen.text((170, 351), "Please bring the budget figures.", font=font(26), fill="#333")
    pen.rounded_rectangle((610, 440, 720, 490), 8, fill="#e9ecf1")
    pen.text((665, 465), "Later", font=font(22), fill="#333", anchor="mm")
    pen.rounded_rectangle((740, 440, 850, 490), 8, fill="#2f6fde")
    pen.text((795, 465), "Accept", font=font(22), fill="#fff", anchor="mm")
    return screen


def orange(size: int = 640) -> Image.Image:
    """An orange on a wooden table, shaded as light from the upper left would."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:size, 0:size] / size
    wall = np.stack([0.80 - 0.10 * y, 0.76 - 0.12 * y, 0.68 - 0.14 * y], axis=-1)
    grain = 0.04 * np.sin(60 * y + 3 * np.sin(9 * x)) + 0.03 * rng.standard_normal((size, 1))
    wood = np.stack([0.50 + grain, 0.33 + 0.8 * grain, 0.20 + 0.6 * grain], axis=-1)
    picture = np.where((y > 0.62)[..., None], wood, wall)
    shadow = np.exp(-(((x - 0.58) / 0.30) ** 2 + ((y - 0.83) / 0.07) ** 2) * 1.5)
    picture *= (1 - 0.75 * shadow)[..., None]
    radius, dx, dy = 0.30, (x - 0.5), (y - 0.54)
    inside = dx**2 + dy**2 < radius**2
    depth = np.sqrt(np.clip(radius**2 - dx**2 - dy**2, 0, None))
    # Pores: smooth noise that tilts the surface a little.
    noise = Image.fromarray((rng.random((size, size)) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2.2))
    bump_y, bump_x = np.gradient(np.asarray(noise, dtype=float))
    normal = np.stack([dx / radius - 0.025 * bump_x, dy / radius - 0.025 * bump_y, depth / radius], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.array([-0.45, -0.60, 0.66])
    diffuse = np.clip(normal @ (light / np.linalg.norm(light)), 0, None)
    half = light / np.linalg.norm(light) + np.array([0, 0, 1])
    shine = np.clip(normal @ (half / np.linalg.norm(half)), 0, None) ** 24
    skin = np.array([1.0, 0.52, 0.05]) * (0.22 + 0.85 * diffuse)[..., None] + 0.3 * shine[..., None]
    stem = np.exp(-(((x - 0.47) / 0.018) ** 2 + ((y - 0.275) / 0.012) ** 2))
    skin = skin * (1 - 0.8 * stem)[..., None] + np.array([0.20, 0.30, 0.08]) * (0.8 * stem)[..., None]
    picture = np.where(inside[..., None], skin, picture) + 0.012 * rng.standard_normal((size, size, 1))
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(0.8))


def main() -> None:
    """Write the pictures beside this file."""
    receipt().save(FOLDER / "receipt.png", optimize=True)
    screenshot().save(FOLDER / "screenshot.png", optimize=True)
    orange().save(FOLDER / "orange.jpg", quality=88)


if __name__ == "__main__":
    main()
