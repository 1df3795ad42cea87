"""A turn about a chart: one brick sees which label is meant, another reads how it is called, the host is told both."""

import io

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from mattoni.injections import Soft
from mattoni.inputs import Attachment
from mattoni.methods import method_of
from mattoni.paths import data_folder
from mattoni.runtime import GivenPicture
from modality_bricks.chart_labels import ChartTexts, Named
from modality_bricks.methods.qformer import QFormerParts
from tests.assistant.conftest import QUERIES, done, png, write_eyes

SHORT = Sampling(temperature=0, max_tokens=4)
CHART = Choices(vision="bars")


@pytest.fixture
def bars(assistant):
    """An image brick of random weights whose card asks for labels."""
    folder = data_folder() / "bricks" / "bars"
    write_eyes(folder, assistant.host)
    card = yaml.safe_load((folder / "brick.yaml").read_text())
    card["parts"]["reads"] = "labels"
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    return assistant


@pytest.fixture
def chart():
    """Three bars, with labels and a title that OCR can read."""
    figure = Figure(figsize=(5, 4), dpi=100)
    axes = figure.subplots()
    axes.bar(["Apples", "Bananas", "Cherries"], [2, 5, 3])
    axes.set_title("Harvest of fruit", fontsize=16)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Attachment("chart.png", buffer.getvalue())


@pytest.fixture
def pointing(monkeypatch):
    """Soft tokens that say: the second is the highest, and the first or, hardly, the second the lowest."""
    said = [Named("highest", (0.0, 1.0, 0.0)), Named("lowest", (0.8, 0.2, 0.0))]
    monkeypatch.setattr("modality_bricks.methods.qformer.named", lambda shares, words, labels: said)


def test_the_labels_that_soft_tokens_point_at_stand_in_their_own_words(bars, prompts, chart, pointing):
    ticket = done(bars.ask("Which bar is the highest?", [chart], CHART, SHORT))
    assert ticket.status == "done", ticket.error
    tokenizer = bars.host.tokenizer
    second, first = (len(tokenizer.encode(f" {label}", add_special_tokens=False)) for label in ("Bananas", "Apples"))
    named = f"Title: Harvest of fruit.\nHighest:{'■' * second}, lowest:{'■' * first}.\n"
    assert f"{'■' * QUERIES}\n{named}Which bar is the highest?" in prompts[0]
    assert [brick.name for brick in ticket.trace.bricks] == ["bars", "document"]
    assert ticket.trace.injections == [
        f"sequence: {QUERIES} soft tokens of chart.png by bars",
        "sequence: labels of chart.png by document",
    ]


def test_a_label_that_is_surely_meant_is_its_own_words_and_a_doubtful_one_a_mixture(bars, pointing):
    texts = ChartTexts("", ("Apples", "Bananas", "Cherries"))
    picture = Image.new("RGB", (40, 30))
    brick = method_of(bars.bricks().get("bars").parts).load(bars.bricks().get("bars"), bars.host)
    segments = brick.name_labels(GivenPicture("chart.png", "digest", lambda: picture), texts)
    highest, lowest = (segment.vectors for segment in segments if isinstance(segment, Soft))
    first, second = (
        bars.host.embedding[bars.host.tokenizer.encode(f" {label}", add_special_tokens=False)].detach().float()
        for label in ("Apples", "Bananas")
    )
    assert highest.equal(second)
    assert lowest[0].allclose(0.8 * first[0] + 0.2 * second[0])


def test_the_next_turn_shows_the_host_the_same_labels(bars, prompts, chart, pointing):
    talk = bars.store.new()
    done(bars.ask("Which bar is the highest?", [chart], CHART, SHORT, talk))
    ticket = done(bars.ask("And the lowest?", [], CHART, SHORT, talk))
    assert ticket.status == "done", ticket.error
    assert prompts[1].startswith(prompts[0])
    assert ticket.trace.tokens["reused"] > 0


def test_without_a_brick_that_reads_the_chart_is_seen_and_a_notice_says_what_lacks(bars, prompts, chart):
    choices = Choices(vision="bars", bricks={"document": Choice("off")})
    ticket = done(bars.ask("Which bar is the highest?", [chart], choices, SHORT))
    assert ticket.status == "done", ticket.error
    assert [n.text for n in ticket.trace.notices if n.code == "refused"] == [
        "The labels of chart.png were not read: no brick that reads is installed and switched on."
    ]
    assert f"{'■' * QUERIES}\nWhich bar is the highest?" in prompts[0]


def test_a_chart_without_any_text_is_only_seen(bars, prompts):
    ticket = done(bars.ask("Which bar is the highest?", [png()], CHART, SHORT))
    assert ticket.status == "done", ticket.error
    assert f"{'■' * QUERIES}\nWhich bar is the highest?" in prompts[0]


def test_no_reader_is_asked_beside_a_brick_that_brings_the_labels_itself():
    assert QFormerParts(method="qformer", encoder="local-dir:encoder", reads="labels").brings_words
    assert not QFormerParts(method="qformer", encoder="local-dir:encoder").brings_words
