"""What the attachments of scripted conversations are made from: drawn pages and charts, photographs of the data packs, files.

Knows what each shows in words, so that an answer about one can be told from an answer about another. Knows nothing of turns.
"""

import io
import json
import re
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont, ImageOps
from pydantic import BaseModel, ConfigDict, Field, model_validator

from knowledge_bricks import documents
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.paths import training_data

_PHOTOS = "vision/flickr8k-dev-000.tar.gz"
_LINE, _MARGIN, _FONT = 38, 24, 26  # pixels of a drawn page
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".pdf": "PDF"}


class Chart(BaseModel):
    """A chart as matplotlib draws it when nothing is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["bar", "horizontal bar", "line", "pie"]
    title: str = ""
    values: dict[str, float] = Field(min_length=2)


class Sent(BaseModel):
    """One attachment: exactly one of `file`, `text`, `page`, `chart` and `photo` says where it comes from.

    file    a file beside the conversation's own
    text    a text file's contents
    page    lines drawn in a picture; what follows a tab stands at the right, as prices do on a receipt
    chart   a drawn chart
    photo   the key of a photograph of the Flickr8k dev pack
    turned  by so many degrees clockwise, of a drawn page
    ground  a picture file beside the conversation's own that a drawn page hangs on, as a sign does in a photograph
    shows   further words of what is on it
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str | None = None
    text: str | None = None
    page: tuple[str, ...] = ()
    chart: Chart | None = None
    photo: str | None = None
    turned: Literal[0, 90, 180, 270] = 0
    ground: str | None = None
    shows: str = ""

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> "Sent":
        if sum(map(bool, (self.file, self.text, self.page, self.chart, self.photo))) != 1:
            raise ValueError("give one of 'file', 'text', 'page', 'chart' and 'photo'")
        if (self.turned or self.ground) and not self.page:
            raise ValueError("'turned' and 'ground' belong to 'page'")
        return self

    def attachment(self, name: str, folder: Path) -> Attachment:
        """The file as a user would send it; `folder` is that of the conversation. Raises MattoniError."""
        if self.file is not None:
            return Attachment(name, _bytes(folder / self.file))
        if self.text is not None:
            return Attachment(name, self.text.encode())
        if self.photo is not None:
            return Attachment(name, _photo(self.photo)[0])
        image = draw_page(self.page).rotate(-self.turned, expand=True) if self.page else draw_chart(self.chart)
        if self.ground is not None:
            image = hung(image, Image.open(io.BytesIO(_bytes(folder / self.ground))).convert("RGB"))
        file = io.BytesIO()
        image.save(file, _FORMATS.get(Path(name).suffix, "PNG"))
        return Attachment(name, file.getvalue())

    @property
    def words(self) -> set[str]:
        """What one may say of it, in lower case."""
        said = [self.shows, self.text or "", *self.page]
        if self.chart is not None:
            said += [self.chart.title, *self.chart.values]
        if self.photo is not None:
            said.append(_photo(self.photo)[1])
        return telling_words(" ".join(said))


def telling_words(text: str) -> set[str]:
    """The words of a text that say something of its subject; an amount or a date is one word."""
    amounts = re.findall(r"\d+(?:[.,:/-]\d+)+", text)
    return documents.telling_words(re.sub(r"\d+(?:[.,:/-]\d+)+", " ", text)) | set(amounts)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise MattoniError(f"{path} cannot be read ({problem.strerror}): put it there or name another.") from problem


@lru_cache(maxsize=1)
def _photos(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: file.read() for m in archive if (file := archive.extractfile(m)) is not None}


def _photo(key: str) -> tuple[bytes, str]:
    """The photograph's bytes and its captions. Raises MattoniError where the data packs are not there."""
    files = _photos(training_data() / _PHOTOS)
    if f"{key}.webp" not in files:
        raise MattoniError(f"There is no photograph {key} in {_PHOTOS}: name one that is there.")
    return files[f"{key}.webp"], " ".join(json.loads(files[f"{key}.json"])["captions"])


def draw_page(lines: tuple[str, ...]) -> Image.Image:
    """Black on white, a line below the other."""
    from matplotlib import get_data_path

    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"), _FONT)
    halves = [line.partition("\t") for line in lines]
    width = max(int(font.getlength(f"{left}   {right}" if tab else left)) for left, tab, right in halves)
    page = Image.new("RGB", (width + 2 * _MARGIN, _LINE * len(lines) + 2 * _MARGIN), "white")
    pen = ImageDraw.Draw(page)
    for number, (left, _, right) in enumerate(halves):
        top = _MARGIN + _LINE * number
        pen.text((_MARGIN, top), left, font=font, fill="black")
        pen.text((page.width - _MARGIN, top), right, font=font, fill="black", anchor="ra")
    return page


def hung(page: Image.Image, ground: Image.Image) -> Image.Image:
    """The page on the upper half of the ground, framed, a third as wide as that."""
    width = ground.width // 3
    sign = ImageOps.expand(page.resize((width, width * page.height // page.width)), border=6, fill="black")
    ground.paste(sign, ((ground.width - sign.width) // 2, ground.height // 12))
    return ground


def draw_chart(chart: Chart | None) -> Image.Image:
    """With matplotlib's own colours and sizes."""
    from matplotlib.figure import Figure

    assert chart is not None
    figure = Figure(figsize=(6, 4), dpi=100)
    axes = figure.add_subplot()
    labels, values = list(chart.values), list(chart.values.values())
    match chart.kind:
        case "bar":
            axes.bar(labels, values)
        case "horizontal bar":
            axes.barh(labels, values)
            axes.invert_yaxis()
        case "line":
            axes.plot(labels, values, marker="o")
        case "pie":
            axes.pie(values, labels=labels)
    axes.set_title(chart.title)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")
