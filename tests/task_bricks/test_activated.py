"""Activated LoRA: it acts from its invocation tokens on, as in peft, and the history's keys and values are the bare host's."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from assistant.host.activation import acts_from, stretches
from assistant.host.composition import compose
from assistant.host.decoder import Decoder, Read, TransformersDecoder
from assistant.host.host import Host, load_host
from assistant.host.job import Job
from assistant.host.llama_decoder import LlamaDecoder
from assistant.host.local import LocalEngine, LocalStream
from assistant.host.prompt import Prompt, Turn, build_prompt, invocation_tokens
from assistant.host.sampling import Sampling
from brick_training.frame import prompt_frame
from mattoni.card import read_card
from mattoni.errors import MattoniError
from mattoni.injections import Ids, LowRank, Text
from task_bricks.importing import import_skill
from task_bricks.lora import read_lora, write_lora
from task_bricks.merging import read_parts
from task_bricks.training import train as entry
from task_bricks.training.recipe import LoRASize
from task_bricks.training.rows import Example
from task_bricks.training.stage import SkillModel
from task_bricks.training.steps import answer_loss, encode_batch
from tests.task_bricks.test_training import make_recipe as make_recipe  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
INVOKED = [7, 8]
# Twice, as in a conversation: the last one counts.
IDS = [3, 4, 7, 8, 20, 21, 22, 30, 7, 8, 40, 41, 42]
GREEDY = Sampling(temperature=0, max_tokens=6, min_tokens=6)


@pytest.fixture
def host(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


@pytest.fixture
def engine(host) -> Iterator[LocalEngine]:
    engine = LocalEngine(host)
    yield engine
    engine.close()


@torch.inference_mode()
def ours(host: Host, decoder: Decoder, loras: list[LowRank], ids: list[int]) -> Tensor:
    """The last position's logits, the prompt read stretch by stretch."""
    found = [(one.begin, compose(host, one.injections)) for one in stretches(loras, IDS)]
    key_values = decoder.new_key_values(found[0][1])
    for (begin, composition), end in zip(found, [*(begin for begin, _ in found[1:]), len(ids)], strict=True):
        logits = decoder.forward([Read(key_values, composition, torch.tensor([ids[begin:end]]))])
    return logits[0]


def adapted(host_folder: Path, folders: list[Path]) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(host_folder, dtype=torch.float32)
    found = PeftModel.from_pretrained(model, folders[0], adapter_name=folders[0].name)
    for folder in folders[1:]:
        found.load_adapter(folder, adapter_name=folder.name)
    found.base_model.set_adapter([folder.name for folder in folders])
    return found.eval()


@torch.no_grad()
def pefts(host_folder: Path, folders: list[Path], ids: list[int], begin: int) -> Tensor:
    """peft's own logits after the last position. Of several adapters it cannot find the tokens itself."""
    model = adapted(host_folder, folders)
    known = {} if len(folders) == 1 else {"alora_offsets": [len(ids) - begin]}
    return model(torch.tensor([ids]), **known).logits[0, -1]


@pytest.mark.parametrize("kind", [LlamaDecoder, TransformersDecoder])
def test_an_activated_lora_equals_peft(tiny_host, host, make_adapter, kind):
    activated, plain = make_adapter("activated", alora_invocation_tokens=INVOKED), make_adapter("plain")
    expected = pefts(tiny_host, [activated], IDS, 8)
    lora = read_lora(activated)
    assert lora.invocation_tokens == tuple(INVOKED)
    # The sums run in another order.
    torch.testing.assert_close(ours(host, kind(host), [lora], IDS), expected, rtol=0, atol=1e-4)
    # One more token, as when an answer is written.
    torch.testing.assert_close(
        ours(host, kind(host), [lora], [*IDS, 50]), pefts(tiny_host, [activated], [*IDS, 50], 8), rtol=0, atol=1e-4
    )
    for other in ([], [read_lora(plain)]):
        assert (expected - ours(host, kind(host), other, IDS)).abs().max() > 0.01, (
            "not as bare, nor as acting everywhere"
        )


def test_activated_and_ordinary_loras_at_once_equal_peft(tiny_host, host, make_adapter):
    folders = [
        make_adapter("activated", seed=1, alora_invocation_tokens=INVOKED),
        make_adapter("plain", seed=2, r=2, use_rslora=True),
        make_adapter("second", seed=3, alora_invocation_tokens=INVOKED),
    ]
    loras = [read_lora(folder) for folder in folders]
    expected = pefts(tiny_host, folders, IDS, 8)
    torch.testing.assert_close(ours(host, LlamaDecoder(host), loras, IDS), expected, rtol=0, atol=1e-4)


def test_two_that_are_activated_at_different_tokens_begin_each_at_its_own(host, make_adapter):
    early, late = (
        read_lora(make_adapter(n, seed=s, alora_invocation_tokens=t))
        for n, s, t in (("a", 1, [30]), ("b", 2, [40, 41]))
    )
    assert [(one.begin, len(one.injections)) for one in stretches([late, early], IDS)] == [(0, 0), (7, 1), (10, 2)]


def test_without_its_tokens_in_the_prompt_it_acts_nowhere_as_in_peft(tiny_host, host, make_adapter):
    folder = make_adapter(alora_invocation_tokens=[300, 301])
    lora = read_lora(folder)
    assert acts_from(lora, IDS) is None
    bare = ours(host, LlamaDecoder(host), [], IDS)
    assert torch.equal(ours(host, LlamaDecoder(host), [lora], IDS), bare)
    torch.testing.assert_close(bare, pefts(tiny_host, [folder], IDS, len(IDS)), rtol=0, atol=1e-4)


def test_the_invocation_tokens_of_the_template_open_the_last_message(host):
    tokens = invocation_tokens(host.tokenizer)
    assert host.tokenizer.decode(tokens) == "<|im_start|>user\n"
    said = Text("I say <|im_start|>user\nand nothing of it opens a message.")
    turns = [Turn("user", (said,)), Turn("assistant", (Text("Well."),)), Turn("user", (said,))]
    places = build_prompt(host.tokenizer, turns).keys
    first = build_prompt(host.tokenizer, turns[:2], answering=False).keys
    delta = LowRank("skill", "d", {}, {}, invocation_tokens=tokens)
    assert acts_from(delta, places) == len(first)


@pytest.mark.parametrize("tokens", [[], "user", [1.5], [-1], [True]])
def test_tokens_that_are_none_are_refused(make_adapter, edit_config, tokens):
    folder = make_adapter(alora_invocation_tokens=INVOKED)
    edit_config(folder, alora_invocation_tokens=tokens)
    with pytest.raises(MattoniError, match="alora_invocation_tokens must be a list of token ids"):
        read_lora(folder)


# In the engine


def said(stream: LocalStream) -> list[int]:
    for _ in stream:
        pass
    return stream.ids


def skill(host: Host, seed: int, activated: bool = True) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (torch.randn(2, columns, generator=generator) * 0.3, torch.randn(rows, 2, generator=generator) * 0.3)
        for name, (rows, columns) in host.linear_shapes.items()
    }
    tokens = invocation_tokens(host.tokenizer) if activated else ()
    return LowRank(f"s{seed}", f"d{seed}", factors, dict.fromkeys(factors, 0.5), invocation_tokens=tokens)


def conversation(host: Host, *texts: str | list[int]) -> Prompt:
    segments = [Text(text) if isinstance(text, str) else Ids(tuple(text)) for text in texts]
    roles = ["user", "assistant"] * len(texts)
    return build_prompt(host.tokenizer, [Turn(role, (s,)) for role, s in zip(roles, segments, strict=False)])  # type: ignore[arg-type]


def test_rows_with_and_without_activated_skills_say_together_what_each_says_alone(host, engine):
    a, b, plain = skill(host, 1), skill(host, 2), skill(host, 3, activated=False)
    prompts = [
        conversation(host, "The dog runs.", "Well.", "What is in the picture?"),
        conversation(host, "A man sleeps."),
    ]
    jobs = [Job(p, mix, GREEDY, 0) for p in prompts for mix in ((), (a,), (b,), (plain,), (a, plain), (a, b))]
    alone = [said(engine.generate(job)) for job in jobs]
    assert [said(stream) for stream in [engine.generate(job) for job in jobs]] == alone
    assert len({tuple(ids) for ids in alone}) > 4, "skills change what is said"


def test_the_engine_says_what_peft_generates(tiny_host, host, engine, make_adapter):
    folder = make_adapter(alora_invocation_tokens=list(invocation_tokens(host.tokenizer)))
    prompt = conversation(host, "The dog runs.", "Well.", "What is in the picture?")
    model = adapted(tiny_host, [folder])
    ids = torch.tensor([prompt.keys])
    with torch.no_grad():
        expected = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, min_new_tokens=6
        )[0, ids.shape[1] :].tolist()
    assert said(engine.generate(Job(prompt, (read_lora(folder),), GREEDY, 0))) == expected


def test_a_skill_in_the_middle_of_a_conversation_finds_the_hosts_history_and_leaves_it(host, engine):
    a, b = skill(host, 1), skill(host, 2)
    told = "The dog runs over the grass. " * 12
    first = Job(conversation(host, told), (), GREEDY, 0, "c")
    answer = said(engine.generate(first))
    history = len(conversation(host, told, answer, "").keys) - len(conversation(host, "").keys)

    def asked(mix: tuple[LowRank, ...]) -> LocalStream:
        job = Job(conversation(host, told, answer, "And a man?"), mix, GREEDY, 0, "c")
        stream = engine.generate(job)
        assert said(stream) == said(engine.generate(replace(job, conversation="")))
        return stream

    # The answer's last token was said and never read, and the end of its turn was not said.
    assert asked((a,)).usage.reused >= history - 30
    assert asked((b,)).usage.reused >= history - 30, "whichever skill was before"
    assert asked(()).usage.reused >= history - 30
    assert asked((skill(host, 3, activated=False),)).usage.reused == 0


def test_a_skill_that_reads_one_message_alone_leaves_the_history_where_it_is(host, engine):
    told = "The dog runs over the grass. " * 12
    first = Job(conversation(host, told), (), GREEDY, 0, "c")
    answer = said(engine.generate(first))
    alone = engine.generate(Job(conversation(host, "A man."), (skill(host, 1),), GREEDY, 0, "c"))
    said(alone)
    assert 0 < alone.usage.reused < 60, "what opens every conversation"
    later = engine.generate(Job(conversation(host, told, answer, "And?"), (), GREEDY, 0, "c"))
    said(later)
    assert later.usage.reused >= len(first.prompt)


def test_a_job_with_an_activated_skill_travels(host, engine):
    job = Job(conversation(host, "The dog runs.", "Well.", "And?"), (skill(host, 1),), GREEDY, 0)
    assert said(engine.generate(Job.from_bytes(job.to_bytes()))) == said(engine.generate(job))


def test_peft_takes_back_what_is_written(make_adapter, tmp_path, tiny_host):
    lora = read_lora(make_adapter(alora_invocation_tokens=INVOKED))
    (tmp_path / "again").mkdir()
    write_lora(tmp_path / "again", lora, "tiny")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["alora_invocation_tokens"] == INVOKED
    assert read_lora(tmp_path / "again").invocation_tokens == tuple(INVOKED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert adapted(tiny_host, [tmp_path / "again"]).peft_config["again"].alora_invocation_tokens == INVOKED


# In training


def test_a_batch_of_an_activated_skill_has_the_loss_that_peft_itself_gives(host, tiny_host):
    frame = prompt_frame(host)
    examples = [Example("Shout.\n\na dog", "A DOG", True), Example("Shout.\n\ntwo dogs run", "TWO DOGS RUN", True)]
    skill_model = SkillModel(host.model, LoRASize(rank=2, alpha=4, activated=True), 0, invocation=frame.invocation())
    for name, parameter in skill_model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    losses = []
    for example in examples:
        prompt, answer = [*frame.prompt(example.message, ())], [*frame.answer(example.answer)]
        logits = skill_model.peft(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
    batch = encode_batch(examples, frame, None, torch.device("cpu"), skill_model.invocation)
    assert skill_model(batch).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    everywhere = answer_loss(host.model, replace(batch, begins=(0, 0)), skill_model.acting).item()
    assert abs(everywhere - sum(losses) / len(losses)) > 0.01


def test_a_recipe_trains_an_activated_skill_that_a_turn_uses_from_the_message_on(
    make_recipe, tiny_host, host, tmp_path, capsys
):
    recipe = make_recipe(lora={"rank": 2, "alpha": 4, "activated": True}, reads="message")
    command = [
        str(recipe),
        "--out",
        str(tmp_path / "bricks"),
        "--work",
        str(tmp_path / "work"),
        "--host",
        str(tiny_host),
    ]
    assert entry.main(command) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "bricks" / "shout" / "adapter_config.json").read_text())
    assert tuple(config["alora_invocation_tokens"]) == invocation_tokens(host.tokenizer)
    # Trained again, it is compared with what is there; and one that acts everywhere cannot go on from it.
    assert entry.main(command) == 0, capsys.readouterr().err
    other = make_recipe(name="loud", start_from=str(tmp_path / "bricks" / "shout"))
    assert entry.main([str(other), "--out", str(tmp_path / "bricks"), "--host", str(tiny_host)]) == 1
    assert "'shout' is activated: write lora.activated as it is" in capsys.readouterr().err


def test_skills_of_different_activation_are_not_merged(host, tmp_path, make_adapter):
    for name, options in (("one", {"alora_invocation_tokens": INVOKED}), ("two", {})):
        import_skill(make_adapter(name, **options), tmp_path / "bricks", name, host)
    folders = [tmp_path / "bricks" / name for name in ("one", "two")]
    with pytest.raises(MattoniError, match="'one' and 'two' act from different positions .* switch both on"):
        read_parts([(folder, read_card(folder)) for folder in folders])
