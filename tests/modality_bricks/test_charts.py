"""Charts: what is drawn is what is said of it, and labels are counted by OCR as soft tokens count them."""

import json
from dataclasses import replace
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import numpy as np
import pytest
import yaml

from assistant.evaluation.asking import read_rows
from mattoni.card import read_card
from mattoni.errors import MattoniError
from modality_bricks.chart_labels import ChartTexts, Placed, chart_texts, named, named_text, title_text
from modality_bricks.encoder import load_encoder
from modality_bricks.training.charts.draw import Facts, draw_chart, trend_of
from modality_bricks.training.charts.generate import main, write_charts
from modality_bricks.training.charts.questions import answers, description, labels, spelled, texts_of, turns
from modality_bricks.training.charts.styles import HELD_OUT, TRAIN
from modality_bricks.training.columns_stage import read_labelled
from modality_bricks.training.samples import Source, read_source
from modality_bricks.training.train import main as train

BARS = Facts("bar", 3, ("Figs", "Plums", "Pears"), (0.5, 1.0, 0.2), 1, 2, None, ())


def at(text: str, x: float, y: float, wide: float = 40, tall: float = 10) -> Placed:
    """A text around a point."""
    return Placed(text, x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)


SCALE = [at(text, 20, y, wide=20) for text, y in (("0", 200), ("20-", 150), ("40 -", 100), ("60", 50))]


class TestDrawing:
    def test_the_same_generator_draws_the_same_chart(self) -> None:
        (first, facts), (again, same) = (draw_chart(np.random.default_rng(5), TRAIN) for _ in range(2))
        assert first.tobytes() == again.tobytes()
        assert facts == same

    def test_a_chart_is_said_to_show_what_it_shows(self) -> None:
        found = [draw_chart(np.random.default_rng((1, i)), HELD_OUT)[1] for i in range(16)]
        assert {facts.kind for facts in found} == {"bar", "horizontal bar", "line", "pie", "scatter"}
        for facts in (f for f in found if f.labels):
            assert facts.values[facts.highest or 0] == max(facts.values)
            assert facts.values[facts.lowest or 0] == min(facts.values)
            assert facts.count == (1 if facts.kind == "line" else len(facts.labels))
        # What a perfect reader finds is counted as the soft tokens count it; a label that sits on another one is not found.
        read = [texts_of(facts).labels == facts.labels for facts in found if facts.labels]
        assert sum(read) >= 0.9 * len(read)

    def test_styles_to_measure_on_were_never_trained_on(self) -> None:
        for family in (
            "sheets",
            "colour_maps",
            "fonts",
            "markers",
            "hatches",
            "frames",
            "measures",
            "topics",
            "orders",
        ):
            assert not set(getattr(TRAIN, family)) & set(getattr(HELD_OUT, family)), family
        words = [{label for topic in space.topics for label in topic[1:]} for space in (TRAIN, HELD_OUT)]
        assert not words[0] & words[1]

    def test_a_trend_is_said_only_where_it_is_clear(self) -> None:
        x = np.linspace(0, 1, 30)
        assert trend_of(x, 2 * x) == "rising"
        assert trend_of(x, -x) == "falling"
        assert trend_of(x, np.sin(20 * x)) is None


class TestLabels:
    def test_along_the_bottom_they_count_from_the_left(self) -> None:
        below = [at(text, x, 215) for text, x in (("Plums", 110), ("Figs", 60), ("Pears", 160))]
        texts = [at("Harvest", 110, 20, wide=80, tall=14), *SCALE, *below, at("Tons", 110, 240)]
        assert chart_texts(texts) == ChartTexts("Harvest", ("Figs", "Plums", "Pears"))

    def test_down_the_side_they_count_from_the_top(self) -> None:
        side = [at(text, 40 - len(text), y, wide=2 * len(text)) for text, y in (("Oslo", 60), ("Paris", 120))]
        numbers = [at(text, x, 215, wide=20) for text, x in (("0", 60), ("5", 110), ("10", 160))]
        assert chart_texts([*numbers, *reversed(side)]).labels == ("Oslo", "Paris")

    def test_years_along_the_bottom_are_labels(self) -> None:
        years = [at(year, x, 215) for year, x in (("1999", 60), ("2000", 110), ("2001", 160))]
        assert chart_texts([*SCALE, *years]).labels == ("1999", "2000", "2001")

    def test_around_a_pie_they_count_clockwise_from_the_top(self) -> None:
        around = [
            at("left", 40, 130),
            at("top", 140, 40),
            at("25%", 140, 70),
            at("right", 220, 130),
            at("low", 140, 220),
        ]
        assert chart_texts(around).labels == ("top", "right", "low", "left")

    def test_in_a_legend_they_count_from_the_top(self) -> None:
        legend = [at(text, 200, y) for text, y in (("Tea", 40), ("Milk", 55), ("Soda", 70))]
        assert chart_texts(legend).labels == ("Tea", "Milk", "Soda")

    def test_a_small_title_above_a_legend_is_none_of_its_labels(self) -> None:
        legend = [at(text, 200, y) for text, y in (("Tea", 140), ("Milk", 155), ("Soda", 170))]
        assert chart_texts([at("Drinks", 100, 20), *legend]) == ChartTexts("Drinks", ("Tea", "Milk", "Soda"))

    def test_labels_that_were_read_as_one_text_are_taken_apart(self) -> None:
        for joined, first, count in (
            ("1993 1994 199519961997", "1993", 5),
            ("Day 2 Day 3 Day4 Day 5", "Day 2", 4),
            ("January March April", "January", 3),
        ):
            labels = chart_texts([*SCALE, at(joined, 120, 215, wide=160)]).labels
            assert (len(labels), labels[0]) == (count, first)

    def test_the_name_of_an_axis_is_no_label(self) -> None:
        below = [at(text, x, 215) for text, x in (("Plums", 110), ("Figs", 60))]
        assert chart_texts([*SCALE, *below, at("Tons", 20, 100, wide=10, tall=60)]).labels == ("Figs", "Plums")
        assert chart_texts([*SCALE, *below, at("Number of tons", 120, 240, wide=160)]).labels == ("Figs", "Plums")

    def test_nothing_read_is_nothing_said(self) -> None:
        assert chart_texts([]) == ChartTexts("", ())
        assert title_text(ChartTexts("", ())) == named_text([]) == ""


class TestPointing:
    words = ("highest", "second", "first", "lowest")

    def test_the_query_before_an_ordinal_says_what_the_label_is(self) -> None:
        shares = [[0.9, 0, 0, 0.1], [0.1, 0.6, 0.3, 0], [0, 0, 0.1, 0.9], [0, 0, 1, 0]]
        highest, lowest = named(shares, self.words, labels=2)
        assert highest.what == "highest"
        assert highest.shares == pytest.approx((1 / 3, 2 / 3))
        assert lowest == ("lowest", (1.0, 0.0))

    def test_an_ordinal_beyond_the_labels_names_the_next_guess_if_there_is_one(self) -> None:
        assert named([[1, 0, 0, 0], [0, 1, 0, 0]], self.words, labels=1) == []
        assert named([[1, 0, 0, 0], [0, 0.9, 0.1, 0]], self.words, labels=1) == [("highest", (1.0,))]

    def test_a_query_that_says_no_ordinal_names_nothing(self) -> None:
        assert named([[1, 0, 0, 0], [0.6, 0.2, 0.2, 0]], self.words, labels=2) == []

    def test_training_shows_the_host_the_same_words(self) -> None:
        asked = dict(turns(BARS, np.random.default_rng(0)))
        assert all(question.startswith("Highest: Plums, lowest: Pears.\n") for question in asked)
        assert set(asked.values()) >= {"A bar chart.", "Three.", "Plums.", "Pears."}


class TestRows:
    def test_soft_tokens_spell_one_word_for_each_fact(self) -> None:
        assert spelled(BARS) == "bar chart, three bars, highest second, lowest third, trend none."
        points = Facts("scatter", None, (), (), None, None, "falling", ())
        assert spelled(points) == "scatter chart, many points, highest none, lowest none, trend falling."
        assert len(spelled(BARS).split()) == len(spelled(points).split())

    def test_a_description_says_what_is_known(self) -> None:
        said = description(BARS, ChartTexts("Fruit sold", ()))
        assert said == "A bar chart with three bars about fruit sold. Plums is the highest and Pears the lowest."

    def test_a_mirror_image_counts_from_the_other_side(self) -> None:
        there, mirrored = labels(BARS), labels(BARS, mirrored=True)
        assert (there["labels"]["highest"], mirrored["labels"]["highest"]) == (2, 2)
        assert (there["labels"]["lowest"], mirrored["labels"]["lowest"]) == (3, 1)
        assert mirrored["values"] == [0.2, 1.0, 0.5]
        across = labels(replace(BARS, kind="horizontal bar"), mirrored=True)
        assert across["labels"]["lowest"] == 3
        assert labels(replace(BARS, trend="rising"), mirrored=True)["labels"]["trend"] == "falling"

    def test_what_cannot_be_asked_is_left_out(self) -> None:
        assert set(answers(BARS)) == {"kind", "count", "highest", "lowest"}
        assert answers(BARS)["count"] == ("3", "three")

    def test_a_folder_of_charts_is_read_by_training_and_by_eval(self, tmp_path: Path) -> None:
        write_charts(tmp_path / "charts", "dev", count=6, side=120)
        (source,) = [read_source(Source(format="jsonl", files=("charts/rows.jsonl",)), tmp_path.joinpath)]
        assert len(source.samples) == 6
        assert all(sample.spells.endswith(".") and sample.turns for sample in source.samples)
        assert max(source.samples[0].open().size) <= 120
        assert len(read_rows(tmp_path / "charts" / "eval-kind.jsonl")) == 6
        before = (tmp_path / "charts" / "rows.jsonl").read_text()
        main([str(tmp_path / "charts"), "--rows-only"])
        assert (tmp_path / "charts" / "rows.jsonl").read_text() == before

    def test_a_folder_with_other_things_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "letters.txt").write_text("mine")
        with pytest.raises(MattoniError, match="holds something else than charts: name a new folder."):
            write_charts(tmp_path, "train", count=1)
        assert (tmp_path / "letters.txt").read_text() == "mine"


def columns_config(run: Path) -> dict[str, object]:
    """A tiny encoder that learns from `charts/rows.jsonl` beside the config, and is measured on it."""
    return {
        "stage": "columns",
        "run": str(run),
        "device": "cpu",
        "architecture": "resnet10t",
        "embedding": 16,
        "size": 32,
        "batch": 4,
        "epochs": 1,
        "data": {"rows": ["charts/rows.jsonl"], "dev_rows": ["charts/rows.jsonl"]},
        "optimise": {"learning_rate": 0.001},
    }


class TestEncoder:
    def test_it_learns_several_labels_and_loads_as_an_encoder(self, tmp_path: Path) -> None:
        write_charts(tmp_path / "charts", "train", count=8, side=64)
        config = columns_config(tmp_path / "run")
        (tmp_path / "first.yaml").write_text(yaml.safe_dump(config))
        train([str(tmp_path / "first.yaml")])
        assert load_encoder(tmp_path / "run" / "encoder").tokens == 2
        again = config | {"run": str(tmp_path / "again"), "start_from": f"local-dir:{tmp_path}/run/encoder"}
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(again | {"frozen": ["trunk.layer1"]}))
        train([str(tmp_path / "again.yaml")])
        result = json.loads((tmp_path / "again" / "result.json").read_text())
        assert {"mean", "kind", "count"} <= set(result["best"])

    def test_bad_rows_are_named_and_can_be_left_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_charts(tmp_path / "charts", "train", count=6, side=64)
        rows = tmp_path / "charts" / "rows.jsonl"
        lines = [json.loads(line) for line in rows.read_text().splitlines()]
        del lines[1]["image"]
        (tmp_path / "charts" / lines[4]["image"]).write_text("no picture")
        rows.write_text("\n".join(map(json.dumps, lines)))
        config = columns_config(tmp_path / "run")
        (tmp_path / "columns.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(MattoniError, match=r"lines 5 and 5 of rows\.jsonl[^$]*--skip-bad-rows"):
            train([str(tmp_path / "columns.yaml")])
        talks = "data: 2 rows are talks without a picture and were passed over (lines 2 and 2 of rows.jsonl)."
        assert talks in capsys.readouterr().out
        train([str(tmp_path / "columns.yaml"), "--skip-bad-rows"])
        assert "left out: data: 2 rows have a picture that cannot be opened" in capsys.readouterr().out

    def test_a_label_that_was_never_trained_on_names_its_row(self, tmp_path: Path) -> None:
        write_charts(tmp_path / "charts", "train", count=2, side=64)
        rows = tmp_path / "charts" / "rows.jsonl"
        lines = [json.loads(line) for line in rows.read_text().splitlines()]
        lines[1]["labels"] = {"kind": "radar"}
        rows.write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(MattoniError, match="line 2 of rows.jsonl: the kind 'radar' is in no training row"):
            read_labelled([rows], {"kind": ["bar", "horizontal bar", "line", "pie", "scatter"]}, 32, tmp_path / "cache")


class TestStitch:
    def test_queries_learn_to_spell_and_the_host_is_asked_the_charts_own_questions(
        self, tmp_path: Path, tiny_host: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_charts(tmp_path / "charts", "train", count=6, side=64)
        source = {"format": "jsonl", "files": ["charts/rows.jsonl"]}
        rows = {"rows": ["charts/rows.jsonl"], "dev_rows": ["charts/rows.jsonl"]}
        encoder = {"architecture": "resnet10t", "embedding": 16, "size": 32, "epochs": 1, "data": rows}
        stitch = {"encoder": "local-dir:eyes/encoder", "host": str(tiny_host), "steps": 2, "steps_per_evaluation": 2}
        stitch |= {"data": [source], "dev": [source | {"limit": 3}], "cache": "features"}
        brick = {"folder": "bricks/bars", "title": "Bars", "summary": "Bars.", "licence": "none", "limits": "all"}
        stages = [
            {"stage": "columns", "run": "eyes", "batch": 2} | encoder,
            {"stage": "words", "run": "words", "batch": 2}
            | stitch
            | {"stitch": {"width": 16, "heads": 2, "words": 64}},
            {"stage": "generate", "run": "speech", "batch": 2, "start_from": "words", "new_tokens": 2}
            | stitch
            | {"brick": brick | {"data": ["charts"], "parents": ["words"], "reads": "labels"}},
        ]
        for number, stage in enumerate(stages):
            config = tmp_path / f"{number}.yaml"
            config.write_text(yaml.safe_dump(stage | {"device": "cpu", "optimise": {"learning_rate": 0.001}}))
            train([str(config)])
        assert "spelled" in json.loads((tmp_path / "words" / "result.json").read_text())["best"]
        assert json.loads((tmp_path / "speech" / "result.json").read_text())["best"]["answered n"] == 3
        card = read_card(tmp_path / "bricks" / "bars")
        assert card.parts.reads == "labels"
        assert [metric.name for metric in card.metrics] == ["answers as its row"]
