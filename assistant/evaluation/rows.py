"""Writes rows and pictures from the data packs for `mattoni eval`: `python -m assistant.rows SET OUT_DIR`.

Knows the packs and the form of rows, nothing of how they are asked or scored. OUT_DIR gets `rows.jsonl` and pictures.
"""

import argparse
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import mattoni.torchvision_ops  # noqa: F401  (before timm)

from PIL import Image
from timm.data.imagenet_info import ImageNetInfo

from assistant.evaluation.asking import Row, write_lines
from assistant.host.wheels import download_wheel
from brick_training.reward import caption_metric
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.lines import json_rows
from mattoni.paths import training_data
from modality_bricks.ocr import Reader, text_in_reading_order
from modality_bricks.training.charts.generate import write_charts
from modality_bricks.training.packs import captioned_pictures, pack_files, sheet_tiles
from modality_bricks.training.pairs import PairQuestion, captioned_pairs, named_pairs
from modality_bricks.training.readers import CAPTION_QUESTIONS, Sample, tidy_caption, wants_name
from modality_bricks.training.samples import Source, read_source
from task_bricks.training.equations import arithmetic_rows, maths_rows
from task_bricks.training.receipts import (
    DEFAULT,
    WORDINGS,
    receipt_message,
    receipt_questions,
    shortened,
    written_receipt,
)
from task_bricks.training.receipts import receipt_json as written_as_json

RowValues = Mapping[str, Any]


def tinyimagenet(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """What is in each tile? A synonym of its class is in the first 12 words, and none of another of the 200 classes."""
    vision = data / "vision"
    classes = json.loads((vision / "tinyimagenet-classes.json").read_text(encoding="utf-8"))
    synonyms = [list(dict.fromkeys([entry["short"], *entry["names"]])) for entry in classes]
    write_text(out / "names.json", json.dumps(sorted({name for names in synonyms for name in names})))
    pixels, labels = sheet_tiles(_packs(vision, f"tinyimagenet-{split}-*.tar"))
    for number, (tile, label) in enumerate(zip(pixels, labels, strict=True)):
        name = f"pictures/{number:05}.png"
        Image.fromarray(tile).save(out / name)
        yield {
            "id": f"tinyimagenet-{split}-{number:05}",
            "question": "What is in the picture?",
            "image": name,
            "answers": synonyms[label],
            "metric": "named",
            "words": 12,
            "names": "names.json",
        }


# Pictures of their own size in packages that can be installed, and their class of ImageNet-1k: of foolbox's the file's name says it.
_IN_WHEELS: Mapping[str, Mapping[str, int]] = {
    "foolbox==3.3.4": {
        f"foolbox/data/imagenet_{place:02}_{thing}.jpg": thing
        for place, thing in enumerate(
            (243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630, 741, 471, 129, 99, 251, 22, 317, 305)
        )
    },
    "gradio==6.31.0": {
        "gradio/media_assets/images/cheetah.jpg": 293,
        "gradio/media_assets/images/cheetah1.jpg": 293,
        "gradio/test_data/cheetah2.jpg": 293,
    },
    "scikit-learn==1.9.1": {"sklearn/datasets/images/china.jpg": 698},
    "ultralytics==8.4.190": {"ultralytics/assets/bus.jpg": 654},
}


def things(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """What is in each of twenty full-size pictures, of things of ImageNet-1k that are none of Tiny ImageNet's 200?"""
    classes = json.loads((data / "vision" / "tinyimagenet-classes.json").read_text(encoding="utf-8"))
    info, learned = ImageNetInfo("imagenet-1k"), {entry["wnid"] for entry in classes}

    def names(thing: int) -> list[str]:
        return [said.strip() for said in info.index_to_description(thing).split(",")]

    every = sorted({name for thing in range(info.num_classes()) for name in names(thing)})
    write_text(out / "names.json", json.dumps(every))
    for wheel, members in _IN_WHEELS.items():
        with tempfile.TemporaryDirectory() as folder, ZipFile(download_wheel(wheel, Path(folder))) as package:
            for member, thing in members.items():
                if info.label_names()[thing] in learned:
                    continue
                name = f"pictures/{wheel.partition('=')[0]}-{Path(member).name}"
                (out / name).write_bytes(package.read(member))
                yield {
                    "id": Path(name).stem,
                    "question": "What is in the picture?",
                    "image": name,
                    "answers": names(thing),
                    "metric": "named",
                    "words": 12,
                    "names": "names.json",
                }


def flickr8k(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Describe each photograph; its five captions are the references."""
    for path in _packs(data / "vision", f"flickr8k-{split}-*.tar.gz"):
        for key, picture, captions in captioned_pictures(path):
            name = f"pictures/{key}.png"
            picture.save(out / name)
            yield {
                "id": key,
                "question": "Describe the photo.",
                "image": name,
                "answers": captions,
                "metric": "cider",
            }


def captions(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Photographs, asked for a description in one wording each. The first answer is the caption that agrees most with all of the
    picture's (CIDEr-D), which is what to imitate where five people said five things."""
    found = [row for path in _packs(data / "vision", f"flickr8k-{split}-*.tar.gz") for row in captioned_pictures(path)]
    said = [[tidy_caption(text) for text in texts if text.strip()] for _, _, texts in found]
    worth = caption_metric(said)
    chance = random.Random(0)
    wordings = [question for question in CAPTION_QUESTIONS if not wants_name(question)]
    for place, ((key, picture, _), texts) in enumerate(zip(found, said, strict=True)):
        name = f"pictures/{key}.png"
        picture.save(out / name)
        yield {
            "id": key,
            "question": "Describe the photo." if chance.random() < 0.5 else chance.choice(wordings),
            "image": name,
            "answers": sorted(texts, key=lambda text: -worth(place, text, True)),
            "metric": "cider",
        }


def second_photo(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """The rows of `flickr8k`, each after another photograph was described in the same conversation."""
    earlier: RowValues | None = None
    for row in flickr8k(data, split, out):
        if earlier is not None:
            yield {**row, "before": [{"question": earlier["question"], "image": earlier["image"]}]}
        earlier = row


def daquar(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Short questions about rooms, one accepted answer each."""
    (path,) = _packs(data / "vision", f"daquar-{split}-images.tar.gz")
    for name, content in pack_files(path).items():
        (out / "pictures" / name).write_bytes(content)
    for row in _lines(data / "vision" / f"daquar-{split}.jsonl"):
        yield {**row, "image": f"pictures/{row['image']}.webp"}


def pairs(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Which of two pictures shows it, what is in the one, in both? Tiles, then photographs."""
    tiles = _samples("tiles", f"tinyimagenet-{split}-*.tar", data, split)
    yield from _pair_rows(named_pairs(tiles, seed=0), f"tiles-{split}", out)
    yield from photo_pairs(data, split, out)


def photo_pairs(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Which of two photographs shows a thing that the captions of one of them alone mention?"""
    photos = _samples("captions", f"flickr8k-{split}-*.tar.gz", data, split)
    yield from _pair_rows(captioned_pairs(photos, seed=0), f"photos-{split}", out)


# Pictures that questions about two of them are made of: so many to learn from, so many to measure on.
_PAIRED, _PAIRED_OTHERWISE = {"train": 4000}, 400


def _samples(form: Literal["tiles", "captions"], pattern: str, data: Path, split: str) -> Sequence[Sample]:
    files = tuple(path.name for path in _packs(data / "vision", pattern))
    classes = "tinyimagenet-classes.json" if form == "tiles" else None
    limit = _PAIRED.get(split, _PAIRED_OTHERWISE)
    source = Source(format=form, files=files, classes=classes, limit=limit)
    return read_source(source, lambda name: data / "vision" / name).samples


def _pair_rows(questions: Iterable[PairQuestion], name: str, out: Path) -> Iterator[RowValues]:
    for number, asked in enumerate(questions):
        images = [f"pictures/{name}-{number:05}-{place}.png" for place in (1, 2)]
        for image, sample in zip(images, asked.pictures, strict=True):
            sample.open().save(out / image)
        yield {
            "id": f"{name}-{number:05}",
            "question": asked.question,
            "images": images,
            "answers": [asked.answer],
            "metric": "accuracy",
        }


def plain(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Questions on a passage that stands in the message: nothing to look up and nothing to see."""
    yield from with_passage(data, split)


def with_passage(data: Path, split: str) -> Iterator[RowValues]:
    """The questions of `reading`, each with its passage in the message."""
    passages = {p["passage_id"]: p for p in _lines(data / "text" / f"reading-passages-{split}.jsonl")}
    for row in _lines(data / "text" / f"reading-{split}.jsonl"):
        text = passages[row["passage_id"]]["text"]
        yield {**row, "question": f"{text}\n\nAnswer in a few words: {row['question']}", "metric": "contains"}


def reading_passage(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """The same, by how many of its words an answer shares with a right one."""
    yield from ({**row, "metric": "f1"} for row in with_passage(data, split))


def plain_after_picture(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """The same questions, each after a question about a picture of its own in the same conversation."""
    tiles = tinyimagenet(data, split, out)
    for row, tile in zip(with_passage(data, split), tiles, strict=False):
        yield {**row, "before": {"question": tile["question"], "image": tile["image"]}}


def amounts(total: str) -> list[str]:
    """The right spellings of an annotated total: "RM 1,043.7" is also 1,043.7, 1043.7, 1,043.70 and 1043.70."""
    bare = total.lstrip("RM$ ")
    spellings = [total, bare]
    try:
        value = float(bare.replace(",", ""))
    except ValueError:
        return list(dict.fromkeys(spellings))
    return list(dict.fromkeys([*spellings, bare.replace(",", ""), f"{value:,.2f}", f"{value:.2f}"]))


def receipts(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """What is the total of each receipt? The scans are written as they are."""
    (path,) = _packs(data / "vision", f"receipts-{split}.tar")
    files = pack_files(path)
    for name in sorted(n for n in files if n.endswith(".webp")):
        key = Path(name).stem
        total = json.loads(files[name[:-4] + "json"])["fields"]["total"].strip()
        if not total:
            continue
        (out / "pictures" / f"{key}.webp").write_bytes(files[name])
        yield {
            "id": key,
            "question": "What is the total?",
            "image": f"pictures/{key}.webp",
            "answers": amounts(total),
            "metric": "contains",
        }


def receipt_fields(data: Path, split: str) -> dict[str, dict[str, str]]:
    """By receipt what is written on it: company, date, address and total."""
    (path,) = _packs(data / "vision", f"receipts-{split}.tar")
    return {Path(n).stem: json.loads(text)["fields"] for n, text in pack_files(path).items() if n.endswith(".json")}


# What people go on to ask about a receipt, after its total.
_DATE = "What is the date?"
_SECOND_QUESTIONS = (_DATE, "What was bought?", "Which shop is it from?", "How was it paid?")
_THIRD_QUESTIONS = (
    "Make a table of the items and prices.",
    "List the items.",
    "What is the address of the shop?",
    "What is the most expensive item?",
)


def receipt_followups(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """A second question about each receipt, or a third, in turn; the first asks for its total.

    Only the date has one right answer; the other rows are not scored.
    """
    fields = receipt_fields(data, split)
    for number, row in enumerate(receipts(data, split, out)):
        asks = [_SECOND_QUESTIONS[number // 2 % 4], _THIRD_QUESTIONS[number // 2 % 4]]
        *earlier, question = asks[: 1 + number % 2]
        first = {"question": row["question"], "image": row["image"]}
        found = {"id": row["id"], "question": question, "before": [first, *({"question": q} for q in earlier)]}
        date = fields[row["id"]]["date"].strip() if question == _DATE else ""
        yield {**found, "answers": [date], "metric": "contains"} if date else found


def receipts_lines(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """The same question on the true lines as a text file: what is lost when nothing is misread."""
    (path,) = _packs(data / "vision", f"receipts-{split}.tar")
    files = pack_files(path)
    (out / "files").mkdir()
    for row in receipts(data, split, out):
        key = row["id"]
        lines = json.loads(files[f"{key}.json"])["lines"]
        (out / "files" / f"{key}.txt").write_text("\n".join(lines), encoding="utf-8")
        yield {**{name: value for name, value in row.items() if name != "image"}, "file": f"files/{key}.txt"}


def receipt_json_pictures(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Each receipt as JSON, from the scan: the document brick reads and the skill writes, in one turn."""
    (path,) = _packs(data / "vision", f"receipts-{split}.tar")
    files = pack_files(path)
    for name in sorted(n for n in files if n.endswith(".webp")):
        (out / "pictures" / name).write_bytes(files[name])
        yield {**_as_json(Path(name).stem, _receipt(files, name)), "image": f"pictures/{name}"}


def receipt_json_lines(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """The same from the true lines as a text file: what is lost when nothing is misread."""
    (path,) = _packs(data / "vision", f"receipts-{split}.tar")
    files = pack_files(path)
    (out / "files").mkdir()
    for name in sorted(n for n in files if n.endswith(".webp")):
        key, receipt = Path(name).stem, _receipt(files, name)
        (out / "files" / f"{key}.txt").write_text("\n".join(receipt["lines"]), encoding="utf-8")
        yield {**_as_json(key, receipt), "file": f"files/{key}.txt"}


# Scans that are read for training rows: reading takes longer than learning from what was read.
_SCANS_READ = 60


def receipt_json(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Receipts as text with the message behind it, as a turn shows them to the host: what the skill is trained on.

    Of the split `train` the true lines of all receipts and what OCR reads on the first scans, several wordings, some goods left
    out; of others the true lines and the wording that is measured.
    """
    (path,) = _packs(data / "vision", f"receipts-{split}.tar")
    files, rng = pack_files(path), random.Random(0)
    if split != "train":
        for name in sorted(n for n in files if n.endswith(".json")):
            receipt = _receipt(files, name)
            yield _training_row(Path(name).stem, receipt["lines"], receipt["fields"], DEFAULT)
        return
    for name, read in islice(_scans_read(files), _SCANS_READ):
        fields = _receipt(files, name)["fields"]
        for copy in range(2):
            lines = shortened(read, rng)
            yield _training_row(f"{Path(name).stem}-read-{copy}", lines, fields, rng.choice(WORDINGS))
    for row in _lines(data / "vision" / "receipts-text-train.jsonl"):
        for copy in range(2):
            lines = shortened(row["lines"], rng)
            yield _training_row(f"{row['id']}-true-{copy}", lines, row["fields"], rng.choice(WORDINGS))


# Receipts that are made up, beside those that were printed: of them also goods and payment are known.
_WRITTEN = 250


def receipt_asked(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Questions on receipts as text, several on each: what the skill is trained on that answers them.

    Of the split `train` the true lines of all receipts, what OCR reads on all scans, and receipts that are made up; of others
    two questions on each one's true lines.
    """
    (path,) = _packs(data / "vision", f"receipts-{split}.tar")
    files, rng = pack_files(path), random.Random(0)
    if split != "train":
        for name in sorted(n for n in files if n.endswith(".json")):
            receipt = _receipt(files, name)
            pairs = receipt_questions(receipt["lines"], receipt["fields"], rng)
            yield from _asked_of(Path(name).stem, receipt["lines"], rng.sample(pairs, min(2, len(pairs))))
        return
    for name, read in _scans_read(files):
        lines = shortened(read, rng)
        pairs = receipt_questions(lines, _receipt(files, name)["fields"], rng)
        yield from _asked_of(f"{Path(name).stem}-read", lines, pairs)
    for row in _lines(data / "vision" / "receipts-text-train.jsonl"):
        lines = shortened(row["lines"], rng)
        yield from _asked_of(f"{row['id']}-true", lines, receipt_questions(lines, row["fields"], rng))
    for number in range(_WRITTEN):
        lines, pairs = written_receipt(rng)
        yield from _asked_of(f"written-{number}", lines, pairs)


def _asked_of(key: str, lines: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Iterator[RowValues]:
    text = "\n".join(lines)
    for number, (question, answer) in enumerate(pairs):
        yield {"id": f"{key}-{number}", "text": text, "question": question, "answers": [answer], "metric": "contains"}


# How a receipt's fields are asked for, beside its total.
_FIELD_QUESTIONS = {
    "date": "What is the date?",
    "company": "Which shop is it from?",
    "address": "What is the address of the shop?",
}


def receipt_questions_pictures(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Date, shop and address of each receipt, asked of its scan one at a time."""
    fields = receipt_fields(data, split)
    for row in receipts(data, split, out):
        for name, question in _FIELD_QUESTIONS.items():
            if answer := fields[row["id"]][name].strip(" .,"):
                yield {**row, "id": f"{row['id']}-{name}", "question": question, "answers": [answer]}


def _scans_read(files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Each scan's name and the lines that OCR reads on it."""
    reader = Reader()
    for name in sorted(n for n in files if n.endswith(".webp")):
        with Image.open(io.BytesIO(files[name])) as picture:
            yield name, text_in_reading_order(reader.read(picture.convert("RGB"))).strip().split("\n")


def _receipt(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Lines and fields of the receipt whose picture or text has this name."""
    receipt: dict[str, Any] = json.loads(files[f"{Path(name).stem}.json"])
    return receipt


def _as_json(key: str, receipt: Mapping[str, Any]) -> RowValues:
    return {"id": key, "question": DEFAULT, "answers": [written_as_json(receipt["fields"])], "metric": "fields"}


def _training_row(key: str, lines: Sequence[str], fields: Mapping[str, str], wording: str) -> RowValues:
    message = receipt_message("\n".join(lines), wording)
    return {"id": key, "question": message, "answers": [written_as_json(fields)], "metric": "fields"}


def task(name: str, data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """A task of the text pack with its default instruction."""
    yield from _lines(data / "text" / f"{name}-{split}.jsonl")


def equations(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Word problems of both kinds with the equation as the answer: what the skills that write equations learn from."""
    text = data / "text"
    yield from arithmetic_rows(_lines(text / f"arithmetic-{split}.jsonl.gz"))
    yield from maths_rows(_lines(text / f"maths-{split}.jsonl.gz"))


def reading(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Questions on passages, which are written as files for `mattoni knowledge add reading OUT_DIR/passages/*`."""
    folder = out / "passages"
    folder.mkdir()
    for passage in _lines(data / "text" / f"reading-passages-{split}.jsonl"):
        text = f"{passage['title']}\n\n{passage['text']}\n"
        (folder / f"{passage['passage_id']}.txt").write_text(text, encoding="utf-8")
    for row in _lines(data / "text" / f"reading-{split}.jsonl"):
        yield {**row, "metric": "f1"}


def chat(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Plain messages that many answers suit: asked, and not scored."""
    for row in _lines(data / "text" / f"chat-{split}.jsonl"):
        yield {"id": row["id"], "question": row["text"]}


_MIXED_CHARTS = 60


def mixed(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """300 rows of all kinds, for comparing the answers of two states of the assistant word for word."""
    yield from islice(tinyimagenet(data, split, out), 30)
    yield from islice(flickr8k(data, split, out), 30)
    write_charts(out / "charts", split, _MIXED_CHARTS, seed=1)
    for kind in ("kind", "count", "highest", "lowest", "trend"):
        for row in _lines(out / "charts" / f"eval-{kind}.jsonl")[:10]:
            yield {**row, "image": f"charts/{row['image']}"}
    yield from islice(receipts(data, split, out), 50)
    yield from islice(task("translation-de", data, split, out), 50)
    yield from islice(plain(data, split, out), 50)
    yield from islice(chat(data, split, out), 40)


def speech(data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Recordings with what is said in them, in all languages; the recording is the question."""
    for row in _lines(data / "speech" / f"speech-{split}.jsonl"):
        name = f"recordings/{Path(row['file']).name}"
        (out / "recordings").mkdir(exist_ok=True)
        (out / name).write_bytes((data / "speech" / row["file"]).read_bytes())
        yield {"id": row["id"], "audio": name, "answers": [row["text"]], "metric": "wer"}


_TASKS = ("translation-de", "translation-fr", "sql", "sentiment", "arithmetic", "maths")
SETS: dict[str, Callable[[Path, str, Path], Iterator[RowValues]]] = {
    "tinyimagenet": tinyimagenet,
    "things": things,
    "flickr8k": flickr8k,
    "captions": captions,
    "second-photo": second_photo,
    "daquar": daquar,
    "pairs": pairs,
    "photo-pairs": photo_pairs,
    "plain": plain,
    "plain-after-picture": plain_after_picture,
    "reading-passage": reading_passage,
    "receipts": receipts,
    "receipts-lines": receipts_lines,
    "receipt-followups": receipt_followups,
    "receipt-questions": receipt_asked,
    "receipt-questions-pictures": receipt_questions_pictures,
    "receipt-json": receipt_json,
    "receipt-json-lines": receipt_json_lines,
    "receipt-json-pictures": receipt_json_pictures,
    **{name: partial(task, name) for name in _TASKS},
    "equations": equations,
    "speech": speech,
    "reading": reading,
    "chat": chat,
    "mixed": mixed,
}


def _packs(folder: Path, pattern: str) -> list[Path]:
    """The packs of a split. Raises MattoniError when there are none."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise MattoniError(f"There is no {pattern} in {folder}: check MATTONI_DATA and --split.")
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    return [row.value for row in json_rows(path, advice="check MATTONI_DATA and --split.")]


# What was said before a row's own message that has nothing to do with it; the first is about a picture.
_TALK = (
    ("What is in the picture?", "It shows {}."),
    ("What colour is it mostly?", "Mostly brown and green."),
    ("Can you suggest a name for a rowing club?", "How about the Early Oars?"),
)


def after_talk(rows: Iterable[RowValues], data: Path, split: str, out: Path) -> Iterator[RowValues]:
    """Rows with three unrelated exchanges before each, two of them about a picture: does a skill stay what it is?"""
    (tile,) = islice(tinyimagenet(data, split, out), 1)
    said = [(question, answer.format(tile["answers"][0])) for question, answer in _TALK]
    history = [
        {"role": role, "content": text} for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    history[0]["image"] = tile["image"]
    for row in rows:
        yield {**row, "history": history}


def write_rows(name: str, out: Path, data: Path, split: str = "dev", talk: bool = False) -> Path:
    """Write a set's rows and pictures into the new folder `out`. Returns the rows' file.

    talk  each row comes after three unrelated exchanges
    """
    if out.exists():
        raise MattoniError(f"{out} exists already: name a new folder.")
    (out / "pictures").mkdir(parents=True)
    try:
        rows = list(SETS[name](data, split, out))
        rows = list(after_talk(rows, data, split, out)) if talk else rows
        for row in rows:
            Row.model_validate(row)
        write_lines(out / "rows.jsonl", rows)
    except BaseException:
        shutil.rmtree(out)
        raise
    return out / "rows.jsonl"


def main() -> int:
    """Command line of `python -m assistant.rows`."""
    parser = argparse.ArgumentParser(prog="python -m assistant.rows", description="Write rows for `mattoni eval`.")
    parser.add_argument("set", choices=SETS, help="which data pack")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--after-talk", action="store_true", help="each row after three unrelated exchanges")
    arguments = parser.parse_args()
    try:
        path = write_rows(arguments.set, arguments.out, training_data(), arguments.split, arguments.after_talk)
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{path}: {len(list(json_rows(path)))} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
