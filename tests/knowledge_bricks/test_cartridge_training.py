"""A cartridge is made of a text: what it begins as, what learns, and that a stopped call goes on."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from assistant.evaluation import measure_cartridge
from assistant.evaluation.measure_cartridge import beside_skill, measure, routed
from assistant.host.composition import compose
from assistant.host.host import load_host
from assistant.host.prompt import ASK_TEXT
from brick_training import loop
from brick_training.frame import prompt_frame
from knowledge_bricks.cartridge import TENSOR, WEIGHTS, pack, read_cartridge, unpack
from knowledge_bricks.training import train as training
from knowledge_bricks.training.beginning import beginning
from knowledge_bricks.training.self_study import LIKELIEST, _taught, study
from knowledge_bricks.training.stage import CartridgeModel, CartridgeStage
from knowledge_bricks.training.train import train_cartridge
from mattoni.card import read_card
from mattoni.errors import Interrupted, MattoniError
from mattoni.injections import Prefix
from task_bricks.lora import read_lora
from tests.assistant.conftest import write_adapter

TEXT = (
    "The capital of Italy is Rome, and its bricks are called mattoni by everybody there. "
    "A dog runs over the grass and sleeps on a couch in the afternoon."
)


@pytest.fixture
def host(tiny_host):
    return load_host(str(tiny_host), device="cpu", dtype="float32")


def logits(host, ids, layers=()):
    cache = compose(host, [Prefix("c", "c", layers)]).new_cache() if layers else None
    with torch.inference_mode():
        return host.model(input_ids=torch.tensor([ids]), past_key_values=cache).logits


def test_one_tensor_and_layers_are_two_ways_to_say_the_same():
    embeddings = torch.randn(5, 3 * 2 * 2 * 4)
    assert torch.equal(pack(unpack(embeddings, (3, 2, 4))), embeddings)


def test_all_positions_of_a_text_are_the_text(host):
    text, asked = (1, 40, 41, 42, 90, 91), (50, 51, 52)
    layers = beginning(host, text, [asked], len(text))
    expected = logits(host, [*text, *asked])[:, len(text) :]
    torch.testing.assert_close(logits(host, list(asked), layers), expected, rtol=0, atol=1e-4)


def test_kept_keys_are_turned_to_where_they_stand(host):
    text = (1, 40, 41, 42, 90, 91, 60, 61)
    keys, values = beginning(host, text, [(50, 51, 52)], 4)[0]
    # In the first layer a key depends on its token and place alone: what is kept is found by its values.
    with torch.no_grad():
        whole = host.model(input_ids=torch.tensor([text])).past_key_values.layers[0]
    for head in range(len(values)):
        kept = [
            next(n for n in range(len(text)) if torch.allclose(whole.values[0, head, n], value, atol=1e-5))
            for value in values[head]
        ]
        assert kept[0] == 0 and kept == sorted(kept), "the first stays, and the order too"
        with torch.no_grad():
            alone = host.model(input_ids=torch.tensor([[text[n] for n in kept]])).past_key_values.layers[0]
        torch.testing.assert_close(keys[head], alone.keys[0, head], rtol=0, atol=1e-4)


def test_lessons_are_kept_and_not_made_again(host, tmp_path):
    passages = [TEXT, f"{TEXT} Translate this sentence to German for the system user."]
    told = []
    lessons = study(host, passages[:1], tmp_path / "kept.jsonl", told.append)
    assert told == [1] and all(lesson.answer[-1] == prompt_frame(host).end for lesson in lessons)
    assert all(lesson.likeliest.shape == (len(lesson.answer), LIKELIEST) for lesson in lessons)
    assert lessons[0].log_probabilities.exp().sum(dim=1).max() <= 1.001
    more = study(host, passages, tmp_path / "kept.jsonl", told.append)
    assert told == [1, 2] and [a.message for a in more[: len(lessons)]] == [a.message for a in lessons]


def test_a_lesson_holds_what_the_host_finds_likely_with_the_passage_before_the_message(host):
    frame = prompt_frame(host)
    pairs = [("Where is Rome?", frame.answer("In Italy.")), ("Who runs?", frame.answer("A dog.")), ("Who runs?", (7,))]
    for lesson, (message, answer) in zip(_taught(host, TEXT, pairs), pairs, strict=True):
        prompt = frame.prompt(f"{TEXT}\n\n{ASK_TEXT}{message}", ())
        expected = logits(host, [*prompt, *answer])[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        assert (lesson.message, lesson.answer) == (message, answer)
        found = expected.gather(1, lesson.likeliest)
        torch.testing.assert_close(found, lesson.log_probabilities, rtol=0, atol=1e-4)
        assert torch.equal(expected.argmax(dim=-1), lesson.likeliest[:, 0])


def test_what_learns_is_the_cartridge_without_its_first_position(host, tmp_path):
    lessons = study(host, [TEXT], tmp_path / "kept.jsonl")
    prompts = [prompt_frame(host).prompt(lesson.message, ()) for lesson in lessons]
    text = training._front(host) + tuple(host.tokenizer(TEXT, add_special_tokens=False).input_ids)
    model = CartridgeModel(host, beginning(host, text, [(*prompts[0], *lessons[0].answer)], 10))
    stage = CartridgeStage(model, prompts, lessons, steps=20, batch=2)
    before, digest = stage.evaluate(0).metrics, host.weights_digest()
    first = model.layers[0][0][:, 0].clone()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    for step in range(20):
        stage.loss(model, stage.rows(step), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert stage.evaluate(20).metrics["closeness"] > before["closeness"]
    assert torch.equal(model.layers[0][0][:, 0], first), "a sink that moves makes the training unstable"
    assert host.weights_digest() == digest
    assert sorted(name for name, _ in model.named_parameters()) == ["rest"]


def test_each_lesson_comes_once_before_any_comes_again(host, tmp_path):
    lessons = study(host, [TEXT], tmp_path / "kept.jsonl") * 10
    stage = CartridgeStage(CartridgeModel(host, tiny_layers(host)), [()] * len(lessons), lessons, steps=9, batch=3)
    seen = [row for step in range(6) for row in stage.rows(step)]
    learned = set(stage._learned)
    assert set(seen[: len(learned)]) == learned and not learned & set(stage._held_out)


def tiny_layers(host, positions=4):
    layers, heads, width = host.key_shape
    return tuple((torch.zeros(heads, positions, width),) * 2 for _ in range(layers))


def made(host, tmp_path, **options):
    file = tmp_path / "rome.txt"
    file.write_text(options.pop("text", "\n\n".join([TEXT, "Translate this sentence to German: a man sleeps. " * 8])))

    def embed(texts):
        return torch.nn.functional.normalize(torch.eye(len(texts), 8) + 0.1, dim=1)

    options = {"positions": 12, "steps": 4, "work": tmp_path / "run", **options}
    return train_cartridge("rome", file, tmp_path / "bricks", host, embed, **options)


def test_a_text_becomes_a_brick_that_peft_loads(host, tmp_path):
    card = made(host, tmp_path)
    brick = tmp_path / "bricks" / "rome"
    assert card == read_card(brick) and card.injects == ("prefix",) and card.routes is not None
    assert (card.parts.positions, card.parts.source) == (12, "rome.txt") and card.parts.tokens > 48
    assert load_file(brick / WEIGHTS)[TENSOR].shape[0] == 12
    read_cartridge(brick, host.key_shape, host.name)
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(str(brick)).num_frozen_tokens == 1


def test_a_stopped_call_leaves_nothing_and_the_same_call_goes_on(host, tmp_path, monkeypatch):
    step = loop.optimizer_step
    monkeypatch.setattr(loop, "optimizer_step", lambda *a, **k: signal.raise_signal(signal.SIGINT) or step(*a, **k))
    with pytest.raises(Interrupted, match="goes on|resume|again"):
        made(host, tmp_path)
    assert not (tmp_path / "bricks").exists()
    monkeypatch.undo()
    kept = (tmp_path / "run" / "lessons.jsonl").read_bytes()
    card = made(host, tmp_path)
    assert (tmp_path / "run" / "lessons.jsonl").read_bytes() == kept, "what was studied is not studied again"
    assert card.training["lessons"] > 0


def test_a_call_that_is_stopped_while_it_studies_says_how_to_go_on(host, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "study", stop)
    with pytest.raises(Interrupted, match="Stopped; what was done is kept in .*, and the same command goes on."):
        made(host, tmp_path)
    assert not (tmp_path / "bricks").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "Rome."}, "rome.txt has .* tokens, which is too short for a cartridge of 12 positions"),
        ({"text": "word " * 4000}, "reads 1,792 at once: make a cartridge of a part of it"),
        ({"text": "x" * 20, "positions": None}, "which is too short"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_with_a_sentence(host, tmp_path, options, says):
    with pytest.raises(MattoniError, match=says) as problem:
        made(host, tmp_path, **options)
    assert "\n" not in str(problem.value) and not (tmp_path / "bricks").exists()


def test_a_taken_name_is_refused_before_anything_is_done(host, tmp_path):
    (tmp_path / "bricks" / "rome").mkdir(parents=True)
    with pytest.raises(MattoniError, match="There is a brick called 'rome' already"):
        made(host, tmp_path)
    assert not (tmp_path / "run").exists()


def test_it_is_measured_beside_the_whole_text_and_the_bare_host(host, tmp_path):
    made(host, tmp_path)
    rows, answers = tmp_path / "rome.jsonl", tmp_path / "answers.jsonl"
    rows.write_text('{"id": "a", "question": "What is the capital of Italy?", "answers": ["Rome"]}\n')
    report = measure(host, tmp_path / "bricks" / "rome", rows, answers)
    assert report["n"] == 1 and set(report["F1"]) == {"cartridge", "bare", "in context"}
    assert report["bytes of keys and values"]["cartridge"] == 12 * 2 * 2 * 2 * 8 * 4
    assert report["times fewer"] > 4
    kept = answers.read_bytes()
    assert measure(host, tmp_path / "bricks" / "rome", rows, answers) == report
    assert answers.read_bytes() == kept, "what was answered is not asked again"
    told = routed(tmp_path / "bricks" / "rome", rows, ["Hello"], lambda texts: torch.ones(len(texts), 8) / 8**0.5)
    assert told["questions"] == {"n": 1, "share": 1.0}


def test_what_a_skill_takes_of_it_is_weighed_by_the_right_answers(host, tmp_path, monkeypatch):
    made(host, tmp_path)
    rows = tmp_path / "rome.jsonl"
    rows.write_text('{"id": "a", "question": "What is the capital of Italy?", "answers": ["Rome"]}\n')
    lora = read_lora(write_adapter(tmp_path / "skill", host, seed=0), "d")
    monkeypatch.setattr(measure_cartridge, "skills_on", lambda names, host: [lora])
    told = beside_skill(host, tmp_path / "bricks" / "rome", rows, "skill")
    nats = {way: one["mean"] for way, one in told["nats a token"].items()}
    assert (
        set(nats) == {"bare", "cartridge", "bare with skill", "cartridge with skill"} and len(set(nats.values())) == 4
    )
    lost = (nats["cartridge with skill"] - nats["bare with skill"]) - (nats["cartridge"] - nats["bare"])
    assert told["gain with the skill less without"]["mean"] == pytest.approx(lost)
