"""Cartridges: as peft writes them, in a turn, and out again unchanged."""

import copy
import json
import pickle
import warnings

import pytest
import torch
from peft import CartridgeConfig, PeftModel, get_peft_model
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_text
from safetensors.torch import load_file, save_file

from assistant.host.composition import compose
from assistant.host.host import load_host
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from knowledge_bricks.cartridge import CONFIG, WEIGHTS, read_cartridge
from mattoni.card import CARD, Routes, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.injections import Prefix
from mattoni.keys import KEYS, save_keys
from mattoni.paths import data_folder
from tests.assistant.conftest import add_bare_brick, done

TEXT = "The capital of Italy is Rome, and its bricks are called mattoni. A dog runs over the grass."
SHORT = Sampling(temperature=0, max_tokens=8)
POSITIONS = 12


@pytest.fixture
def folder(host, tmp_path):
    """A cartridge of the tiny host, as peft itself makes and writes it."""
    return write_with_peft(host, tmp_path / "rome")


def write_with_peft(host, folder, text=TEXT):
    with warnings.catch_warnings():
        # peft 0.21 asks the model for is_gradient_checkpointing, which transformers 5.23 calls deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(
            copy.deepcopy(host.model), CartridgeConfig(num_virtual_tokens=POSITIONS, task_type="CAUSAL_LM")
        )
    initialize_kv_prefix_from_text(model, host.tokenizer, text=text)
    model.save_pretrained(str(folder))
    return folder


def test_logits_equal_pefts(host, folder):
    ids = torch.tensor([[1, 40, 41, 42, 90, 91]])
    composition = compose(host, [Prefix("rome", "d", read_cartridge(folder, host.key_shape, host.name))])
    assert composition.prefix_length == POSITIONS
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(copy.deepcopy(host.model), str(folder)).eval()
        expected = theirs(input_ids=ids).logits
        ours = host.model(input_ids=ids, past_key_values=composition.new_cache()).logits
        bare = host.model(input_ids=ids).logits
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert (ours - bare).abs().max() > 1e-2, "it does something"


def test_it_goes_in_and_out_unchanged(mattoni, assistant, folder, tmp_path):
    status, out, err = mattoni("bricks", "add", folder, "--host", assistant.host.model.name_or_path)
    assert status == 0, err
    assert out == 'rome is here: mattoni ask --knowledge rome "…"\n'
    card = read_card(data_folder() / "bricks" / "rome")
    assert (card.kind, card.injects, card.parts.positions) == ("knowledge", ("prefix",), POSITIONS)
    assert "12 positions of keys and values" in mattoni("bricks", "show", "rome")[1]
    assert mattoni("bricks", "export", "rome", tmp_path / "out")[0] == 0
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assistant.add_brick(tmp_path / "out", "again")
    assert read_card(data_folder() / "bricks" / "again").files == card.files


def test_a_turn_with_it_is_a_turn_behind_its_keys_and_values(assistant, folder):
    bare = done(assistant.ask("Hello there", sampling=SHORT))
    assistant.add_brick(folder)
    assert done(assistant.ask("Hello there", sampling=SHORT)).text == bare.text, "without keys only the user chooses it"
    on = done(assistant.ask("Hello there", (), Choices(bricks={"rome": Choice("on")}), SHORT))
    assert on.error is None and on.text != bare.text
    (used,) = on.trace.bricks
    assert (used.name, used.kind, used.reason) == ("rome", "knowledge", "switched on by hand")
    assert on.trace.injections == ["prefix: 12 positions, 0.0 MB of keys and values, by rome"]
    assert done(assistant.ask("Hello there", sampling=SHORT)).text == bare.text, "nothing of it is left"


def with_keys(name, phrases, embedder, threshold=0.9):
    brick = data_folder() / "bricks" / name
    save_keys(embedder.embed(phrases), brick / KEYS)
    from mattoni.card import describe_files

    card = read_card(brick).model_copy(update={"routes": Routes(space="text", keys=KEYS, threshold=threshold)})
    write_card(card.model_copy(update={"files": describe_files(brick)}), brick)


def test_auto_chooses_it_by_its_keys_and_off_leaves_it_out(assistant, folder):
    assistant.add_brick(folder)
    with_keys("rome", ["What is the capital of Italy?"], assistant.embedder)
    near = done(assistant.ask("What is the capital of Italy?", sampling=SHORT))
    assert [(b.name, b.threshold) for b in near.trace.bricks] == [("rome", 0.9)]
    assert near.trace.bricks[0].reason.startswith("nearest key 1.00")
    off = done(assistant.ask("What is the capital of Italy?", (), Choices(bricks={"rome": Choice("off")}), SHORT))
    assert off.trace.bricks == [] and off.text != near.text


def test_a_turn_has_room_for_one(assistant, folder):
    assistant.add_brick(folder)
    assistant.add_brick(folder, "milan")
    both = {"rome": Choice("on"), "milan": Choice("on")}
    with pytest.raises(MattoniError, match="'milan' and 'rome' are both cartridges, and a turn has room for one"):
        raise MattoniError(done(assistant.ask("Hello there", (), Choices(bricks=both), SHORT)).error)
    with_keys("rome", ["What is the capital of Italy?"], assistant.embedder)
    asked = Choices(bricks={"milan": Choice("on")})
    one = done(assistant.ask("What is the capital of Italy?", (), asked, SHORT))
    assert [b.name for b in one.trace.bricks] == ["milan"], "what the user chose is not disturbed by Auto"


def change(folder, **settings):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_one_for_another_host_is_refused(assistant, make_host, tmp_path):
    other = load_host(str(make_host(tmp_path / "wide", hidden_size=64)), device="cpu", dtype="float32")
    theirs = write_with_peft(other, tmp_path / "theirs")
    refused(assistant, theirs, "theirs was made for another host than ")


def truncated(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def with_nan(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["prompt_embeddings"][3, 5] = float("nan")
    save_file(tensors, folder / WEIGHTS)


def pickled(folder):
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"prompt_embeddings": 1}))


def pickled_under_another_name(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps({"prompt_embeddings": list(range(20))}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "rome/adapter_model.safetensors is truncated or damaged: copy the adapter again."),
        (with_nan, "'prompt_embeddings' holds NaN or infinity"),
        (pickled, "rome/adapter_model.bin is a pickle, which can run code"),
        (pickled_under_another_name, "rome/adapter_model.safetensors is a pickle, which can run code"),
        (lambda f: (f / WEIGHTS).unlink(), "rome/adapter_model.safetensors is missing"),
        (lambda f: change(f, num_virtual_tokens=5), "holds 12 positions and adapter_config.json says 5"),
        (lambda f: save_file({"other": torch.ones(2, 2)}, f / WEIGHTS), "must hold one tensor, 'prompt_embeddings'"),
        (lambda f: save_file({"prompt_embeddings": torch.ones(12)}, f / WEIGHTS), "must be a matrix of plain floats"),
        (lambda f: (f / CARD).write_text("kind: [task"), "brick.yaml"),
    ],
)
def test_a_damaged_one_is_refused_with_a_sentence_and_nothing_is_written(assistant, folder, damage, says):
    damage(folder)
    refused(assistant, folder, says)


def test_a_taken_name_is_refused(assistant, folder):
    add_bare_brick("rome")
    refused(assistant, folder, "There is a brick called 'rome' already", there={"eyes", "rome"})


def refused(assistant, source, says, there=frozenset({"eyes"})):
    with pytest.raises(MattoniError) as problem:
        assistant.add_brick(source)
    assert says in str(problem.value) and "\n" not in str(problem.value)
    assert {place.name for place in (data_folder() / "bricks").iterdir()} == set(there)


def test_the_command_trains_one_that_a_turn_takes(mattoni, assistant, tiny_embedder_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("assistant.host.catalogue.fetch", lambda name: tiny_embedder_folder)
    file, host = tmp_path / "rome.txt", assistant.host.model.name_or_path
    file.write_text(f"{TEXT} Its bricks are red, and its dogs sleep on a couch in the afternoon.")
    asked = ("cartridge", "train", "rome", file, "--positions", "12", "--steps", "2", "--host", host)
    status, out, err = mattoni(*asked)
    assert status == 0, err
    assert "rome is here: Has read rome.txt (50 tokens)" in out and "studied 1 of 1 passages" in err
    turn = done(assistant.ask("Hello there", (), Choices(bricks={"rome": Choice("on")}), SHORT))
    assert turn.error is None and turn.trace.injections[0].startswith("prefix: 12 positions")
    assert mattoni(*asked)[::2] == (
        1,
        "There is a brick called 'rome' already: choose another name, or remove that one first.\n",
    )
