"""A brick of neurons: made of two lists of texts, turned by the user, and gone without a trace at its neutral strength."""

import json

import pytest
import torch
import yaml
from typer.testing import CliRunner

from assistant.cli import app
from assistant.cli.options import choices_of
from assistant.host.composition import compose, composed
from assistant.host.sampling import Sampling
from assistant.turn.gates import much_is_off
from assistant.turn.route import Choice, Choices
from emergent_bricks.analysis.make_brick import check_texts, make_brick
from emergent_bricks.gates import factors, load_gates, save_gates
from mattoni.card import check_files, describe_files, read_card
from mattoni.errors import MattoniError
from mattoni.injections import Gate
from mattoni.paths import shipped_models
from tests.assistant.conftest import add_bare_brick, assistant, done  # noqa: F401 - a fixture
from tests.emergent_bricks.conftest import write_rows

SHORT = Sampling(temperature=0, max_tokens=6)


def turned(strength):
    return Choices(bricks={"rome": Choice("on", strength)})


def add_gates(host, neutral=1.0, value=1.0, name="rome"):
    """A brick on every third neuron of the tiny host."""
    folder = add_bare_brick(name, kind="emergent", injects=["gate"], parts={"method": "gates", "neurons": 1})
    layers, neurons = host.model.config.num_hidden_layers, host.model.config.intermediate_size
    directions = torch.zeros(layers, neurons)
    directions[:, ::3] = value
    save_gates(directions, tuple(range(layers)), folder)
    card = yaml.safe_load((folder / "brick.yaml").read_text())
    card |= {
        "host": host.identity.model_dump(),
        "files": {name: file.model_dump() for name, file in describe_files(folder).items()},
        "parts": {"method": "gates", "neurons": int((directions != 0).sum()), "rests_at": neutral},
    }
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    return folder


def test_factors_go_from_off_over_neutral_to_double():
    gates = {4: torch.tensor([1.0, 0.0, 0.5])}
    assert factors(gates, 0, 1)[4].tolist() == [0.0, 1.0, 0.5]
    assert factors(gates, 2, 1)[4].tolist() == [2.0, 1.0, 1.5]
    assert factors(gates, 1, 1) == {} and factors(gates, 0, 0) == {}
    assert factors({0: torch.tensor([-0.8])}, 2, 0)[0].tolist() == [0.0], "no activation changes its sign"


def test_at_its_neutral_strength_the_logits_are_those_of_the_bare_host_bit_for_bit(assistant):  # noqa: F811
    add_gates(assistant.host)
    plain = done(assistant.ask("Hello there", sampling=SHORT))
    off = done(assistant.ask("Hello there", (), turned(0.0), SHORT))
    back = done(assistant.ask("Hello there", (), turned(1.0), SHORT))
    assert plain.text == back.text != off.text
    assert [(b.name, b.kind, b.reason) for b in off.trace.bricks] == [("rome", "emergent", "switched on by hand")]
    assert off.trace.injections == ["gate: 44 neurons of 2 layers by rome, strength 0"]
    assert back.trace.injections == ["gate: none by rome, at 1 it changes nothing"]
    ids = torch.arange(12).unsqueeze(0)
    with torch.inference_mode():
        bare = assistant.host.model(ids).logits
        with composed(
            assistant.host, compose(assistant.host, [Gate("off", "1", factors(load_gates_of("rome"), 0, 1))])
        ):
            gated = assistant.host.model(ids).logits
        again = assistant.host.model(ids).logits
    assert torch.equal(bare, again) and not torch.equal(bare, gated)


def load_gates_of(name):
    from mattoni.paths import data_folder

    return load_gates(data_folder() / "bricks" / name)


def test_with_much_switched_off_a_notice_says_so_and_the_next_answer_is_as_before(assistant):  # noqa: F811
    add_gates(assistant.host)
    plain = done(assistant.ask("Hello there", sampling=SHORT))
    off = done(assistant.ask("Hello there", (), turned(0.0), SHORT))
    assert [n.text for n in off.trace.notices if n.code == "much-is-off"] == [
        "rome switch off 34 % of the host's neurons: its answer may fall apart; turn some up again."
    ]
    assert done(assistant.ask("Hello there", sampling=SHORT)).text == plain.text
    assert much_is_off([Gate("a", "1", {0: torch.tensor([0.5] * 10)})]) is None


def test_a_brick_of_another_host_or_a_damaged_one_is_set_aside_or_refused_by_name(assistant, tmp_path):  # noqa: F811
    folder = add_gates(assistant.host)
    card = yaml.safe_load((folder / "brick.yaml").read_text())
    save_gates(torch.ones(2, 7), (0, 1), folder)
    card["files"] = {name: file.model_dump() for name, file in describe_files(folder).items()}
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    failed = done(assistant.ask("Hello", (), turned(0.0), SHORT))
    said = " ".join([failed.error or "", *(n.text for n in failed.trace.notices)]) if failed.trace else failed.error
    assert "it gates 7 neurons of layer 0, and the host has 64 there" in said
    (tmp_path / "gates.safetensors").write_bytes(b"no")
    with pytest.raises(MattoniError, match="holds no gates or is damaged"):
        load_gates(tmp_path)


def test_a_brick_is_made_of_two_lists_of_texts_and_takes_part(assistant, tmp_path):  # noqa: F811
    own = write_rows(tmp_path / "own.jsonl", ("rome",))
    others = write_rows(tmp_path / "others.jsonl", ("digits", "grass"))
    split = check_texts("rome", own, others, 0)
    from mattoni.paths import data_folder

    card = make_brick("rome", assistant.host, split, data_folder() / "bricks", 0, "mattoni xray brick rome …")
    assert [m.name.split(",")[0] for m in card.metrics] == [
        "perplexity of rome",
        "perplexity of digits",
        "perplexity of grass",
    ]
    assert set(card.metrics[0].beside) == {"factor 2", "as many random neurons"} and card.parts.neutral == 1.0
    assert "## Figures" in (data_folder() / "bricks" / "rome" / "README.md").read_text()
    answer = done(assistant.ask("Hello there", (), turned(0.0), SHORT))
    assert answer.error is None and [b.name for b in answer.trace.bricks] == ["rome"]
    with pytest.raises(MattoniError, match="There is a brick 'rome' already"):
        make_brick("rome", assistant.host, split, data_folder() / "bricks", 0, "")


def test_texts_in_both_lists_are_refused(tmp_path):
    own = write_rows(tmp_path / "own.jsonl", ("rome",))
    with pytest.raises(MattoniError, match="12 texts are in own.jsonl and in own.jsonl"):
        check_texts("rome", own, own, 0)


def test_gates_of_the_command_line():
    choices = choices_of(None, None, None, False, ["function-code=0", "calm=0.5"])
    assert choices.bricks == {"function-code": Choice("on", 0.0), "calm": Choice("on", 0.5)}
    for text, said in (
        ("code", "say how far to turn it"),
        ("code=x", "say how far"),
        ("code=3", "from 0"),
        ("code=nan", "from 0"),
    ):
        with pytest.raises(MattoniError, match=said):
            choices_of(None, None, None, False, [text])
    alone = choices_of(None, None, None, True, ["code=0"])
    assert (alone.of("code"), alone.of("math").state) == (Choice("on", 0.0), "off")


def test_the_command_writes_a_report_and_a_brick(tiny_host, rows, tmp_path):
    run = CliRunner().invoke(
        app,
        [
            "xray",
            str(tiny_host),
            "--texts",
            str(rows),
            "--out",
            str(tmp_path / "out"),
            "--bricks",
            str(tmp_path / "bricks"),
        ],
    )
    assert run.exit_code == 0, run.output
    printed = json.loads(run.stdout)
    assert printed["best_score"].keys() == {"digits", "grass", "rome"}
    assert sorted(p.name for p in (tmp_path / "bricks").iterdir()) == [
        "function-digits",
        "function-grass",
        "function-rome",
    ]
    assert (tmp_path / "out" / "report.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["xray", "builtin"], "There are no texts"),
        (["xray", "builtin", "--texts", "x.jsonl"], "takes --texts and --out"),
        (["xray", "brick", "--texts", "x.jsonl"], "A brick needs a name"),
    ],
)
def test_what_the_command_lacks_is_a_sentence(arguments, said):
    run = CliRunner().invoke(app, arguments)
    assert isinstance(run.exception, MattoniError) and said in str(run.exception)


def test_the_shipped_bricks_are_small_whole_and_say_what_they_cost_others():
    folders = [folder for folder in (shipped_models() / "bricks").iterdir() if (folder / "gates.safetensors").is_file()]
    assert {folder.name for folder in folders} >= {
        "function-code",
        "function-math",
        "function-translation",
        "function-chat",
        "calm",
    }
    for folder in folders:
        card = read_card(folder)
        check_files(card, folder)
        gates = load_gates(folder)
        assert sum(int(row.ne(0).sum()) for row in gates.values()) == card.parts.neurons
        assert all("as many random neurons" in metric.beside and metric.n for metric in card.metrics)
        assert "## Figures" in (folder / "README.md").read_text()
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 2_000_000


def test_shipped_calm_halves_unpleasant_words_and_costs_chat_nothing_that_counts():
    words, _, perplexity = read_card(shipped_models() / "bricks" / "calm").metrics
    assert words.n >= 200 and words.value <= 0.5 * min(words.beside.values())
    assert perplexity.n >= 50 and perplexity.value <= 3
