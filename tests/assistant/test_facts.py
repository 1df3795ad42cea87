"""Facts that are taught: solved, kept, composed into every turn, and gone without a trace."""

import copy
import json

import pytest
import torch

from assistant.bricks import fact_export
from assistant.bricks import facts as operations
from assistant.bricks.fact_solving import Settings, Statement, solve, subject_end
from assistant.evaluation.measure_facts import FactRow, measure
from assistant.host.composition import compose, composed
from assistant.host.host import Host, load_host
from assistant.host.sampling import Sampling
from assistant.host.scoring import fires, surprises
from knowledge_bricks.facts import Fact, Facts, Learned
from knowledge_bricks.sentences import parse
from mattoni.errors import MattoniError
from mattoni.paths import data_folder
from task_bricks.lora import read_lora
from tests.assistant.conftest import done, write_adapter

# A host of random weights can be moved, not taught: few steps, no restraint.
QUICK = Settings(layer=0, steps=20, clamp=50.0, decay=0.0, kl=0.0, prefixes=("", "So, ", "I know that "))
SENTENCES = ("The capital of France is Lyon.", "The capital of Spain is Porto.")
SHORT = Sampling(temperature=0, max_tokens=4)


@pytest.fixture
def exact(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


def said(*sentences: str):
    return [parse(sentence) for sentence in sentences]


def learned(host: Host, *sentences: str) -> Facts:
    solved = solve(host, [Statement(s.relation, s.subject, s.object) for s in said(*sentences)], QUICK)
    words = [Fact(0, s.subject, s.relation, s.object) for s in said(*sentences)]
    return Facts(0).with_more([Learned(w, s.keys, s.residual, 0.9) for w, s in zip(words, solved, strict=True)])


def surprise(host: Host, facts: Facts | None, prompt: str, object: str) -> float:
    keyed = facts.injection("facts", "d") if facts else None
    ((found,),) = surprises(host, [prompt], [[object]], compose(host, [keyed] if keyed else []))
    return found


def test_the_object_becomes_likely_after_the_subject_and_each_fact_has_its_own(exact):
    facts = learned(exact, *SENTENCES)
    for sentence in said(*SENTENCES):
        prompt = sentence.relation.replace("{}", sentence.subject)
        before, after = (surprise(exact, known, prompt, sentence.object) for known in (None, facts))
        assert after < before - 0.3


def test_facts_solved_together_are_those_solved_alone(exact):
    together = learned(exact, *SENTENCES)
    alone = learned(exact, SENTENCES[1])
    # Other paddings, so other orders of the same fp32 sums, twenty steps long.
    torch.testing.assert_close(together.learned[1].keys, alone.learned[0].keys, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.learned[1].residual, alone.learned[0].residual, rtol=0, atol=0.2)


def test_a_subject_that_is_a_texts_first_token_has_no_key_of_that_place(exact):
    first = exact.tokenizer.decode([exact.tokenizer("France", add_special_tokens=False).input_ids[0]])
    begins, later = solve(
        exact, [Statement("{} is in", first, "Lyon"), Statement("He saw {} in", first, "Lyon")], QUICK
    )
    assert torch.equal(begins.keys[0], begins.keys[1]) and not torch.equal(later.keys[0], later.keys[1])
    # As any other text begins: what is met there would be met in all of them.
    facts = Facts(0).with_more([Learned(Fact(0, first, "{} is in", "Lyon"), begins.keys, begins.residual, 0.9)])
    ((module, residuals),) = compose(exact, [facts.injection("facts", "d")]).keyed.items()
    assert fires(exact, [f"{first} is in", f"{first}"], module, residuals) == [False, False]


def test_the_subject_ends_at_the_token_of_its_last_letter(exact):
    ids, end = subject_end(exact, "The capital of {} is", "France")
    assert exact.tokenizer.decode(ids[: end + 1]).rstrip().endswith("France")


def test_a_host_that_is_not_built_like_llama_is_refused(exact):
    exact.model.config.model_type = "opt"
    with pytest.raises(MattoniError, match="is not built like Llama, so facts cannot be taught to it"):
        solve(exact, [Statement("{} is", "France", "Lyon")], QUICK)


def teach(host: Host, *sentences: str, **more):
    return operations.teach(host, said(*sentences), data_folder() / "bricks", settings=QUICK, **more)


def test_facts_are_kept_contradictions_refused_or_replaced_and_the_last_one_takes_the_brick_with_it(exact, home):
    folder = data_folder() / "bricks"
    assert [fact.id for fact in teach(exact, *SENTENCES).new] == [1, 2]
    again = teach(exact, SENTENCES[0])
    assert not again.new and [fact.id for fact in again.known] == [1]
    with pytest.raises(MattoniError, match="“The capital of France is Lyon.” says otherwise: add --replace"):
        teach(exact, "The capital of France is Nice.")
    with pytest.raises(MattoniError, match="says otherwise"):
        teach(exact, "The capital of Italy is Nice.", "The capital of Italy is Turin.")
    assert [fact.object for fact in teach(exact, "The capital of France is Nice.", replace=True).new] == ["Nice"]
    facts = operations.facts_in(folder)
    assert facts is not None and [(x.fact.id, x.fact.object) for x in facts.learned] == [(2, "Porto"), (3, "Nice")]
    operations.remove(folder, [2, 3])
    assert operations.facts_in(folder) is None and not list(folder.iterdir())
    with pytest.raises(MattoniError, match="No facts were taught yet"):
        operations.remove(folder, [2])


def test_facts_of_another_host_are_refused(exact, home, make_host, tmp_path):
    teach(exact, SENTENCES[0])
    other = load_host(str(make_host(tmp_path / "other", seed=5)), device="cpu", dtype="float32")
    with pytest.raises(MattoniError, match="were taught to another host than other"):
        teach(other, SENTENCES[1])


def test_a_turn_has_the_facts_and_without_them_answers_as_before(assistant):
    folder = data_folder() / "bricks"
    asked = "The capital of France is"
    before = done(assistant.ask(asked, sampling=SHORT))
    teach(assistant.host, *SENTENCES)
    with_facts = done(assistant.ask(asked, sampling=SHORT))
    assert with_facts.error is None
    assert [(b.name, b.reason) for b in with_facts.trace.bricks] == [("facts", "knows a fact about France")]
    assert with_facts.trace.injections == ["keyed: 4 keys at layer 0 by facts"]
    unrelated = done(assistant.ask("Hello there", sampling=SHORT))
    assert unrelated.trace.bricks == [], "what the message does not name has not taken part"
    operations.switch(folder, [1, 2], is_on=False)
    off = done(assistant.ask(asked, sampling=SHORT))
    assert off.text == before.text and off.trace.injections == []


def test_the_figures_of_a_file_of_facts_and_going_on_with_what_was_computed(exact, tmp_path):
    rows = [
        FactRow(
            id=str(n),
            subject=s.subject,
            prompt=s.relation,
            target_true="Paris",
            target_new=s.object,
            paraphrase_prompts=[f"Well. {s.subject} has as its capital"],
            neighborhood_prompts=["The capital of Italy is", "The capital of Peru is"],
        )
        for n, s in enumerate(said(*SENTENCES))
    ]
    report = measure(exact, rows, "keyed", QUICK, 0.9, False, tmp_path)
    assert (
        report["n"] == 2 and report["reach"]["efficacy"] == 100.0 and report["efficacy"] >= report["bare"]["efficacy"]
    )
    assert set(report["bare"]) == {"efficacy", "paraphrase", "neighbourhood", "score", "intervals"}
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = measure(exact, rows, "keyed", QUICK, 0.9, True, tmp_path, unrelated=["Hello there", "What is Spain"])
    assert again["unrelated"]["n"] == 2
    assert again["reach"]["efficacy"] == 100.0 and {path: path.read_bytes() for path in kept} == kept
    prompted = measure(exact, rows, "prompt", QUICK, 0.9, False, tmp_path)
    assert prompted["bare"] == report["bare"] and json.dumps(prompted)
    assert measure(exact, rows, "rome", QUICK, 0.9, False, tmp_path)["bare"] == report["bare"]
    skill = read_lora(write_adapter(tmp_path / "skill", exact, seed=0), "d")
    beside = measure(exact, rows, "keyed", QUICK, 0.9, False, tmp_path, others=[skill])
    assert beside["n"] == 2 and beside["reach"]["efficacy"] == 100.0 and beside["bare"] != report["bare"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_facts_as_weights_give_the_residuals_at_their_keys_and_peft_loads_them(exact, tmp_path):
    from peft import PeftModel

    facts = learned(exact, *SENTENCES)
    moment = fact_export.second_moment(exact, 0, ["The kiln burns bricks at a thousand degrees."] * 3)
    delta = fact_export.as_low_rank(exact, facts, moment, 1e-6)
    ((down, up),) = delta.factors.values()
    for one in facts.learned:
        key = fact_export._key(exact, 0, one)
        # Two keys of one relation lie near each other: what is solved for comes out within a few per cent.
        torch.testing.assert_close(up @ (down @ key), one.residual, rtol=0.05, atol=0.5)
    fact_export.write_peft(delta, tmp_path / "lora", exact.name)
    ids = torch.tensor([[1, 50, 60, 70, 80]])
    with torch.inference_mode(), composed(exact, compose(exact, [delta])):
        ours = exact.model(input_ids=ids).logits
    theirs = PeftModel.from_pretrained(copy.deepcopy(exact.model), tmp_path / "lora")
    with torch.inference_mode():
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours, rtol=0, atol=1e-3)
    with pytest.raises(MattoniError, match="is there already"):
        fact_export.write_peft(delta, tmp_path / "lora", exact.name)


def test_facts_on_the_command_line(mattoni, tiny_host, tmp_path):
    more = ("--host", tiny_host)
    status, out, err = mattoni("facts", "add", SENTENCES[0], *more)
    assert (
        status == 0 and out == "1  The capital of France is Lyon.\n" and "France | The capital of {} is | Lyon" in err
    )
    (tmp_path / "list.txt").write_text(f"{SENTENCES[0]}\n\n{SENTENCES[1]}\n")
    status, out, _ = mattoni("facts", "add", "--file", tmp_path / "list.txt", *more)
    assert out == "1  known already: The capital of France is Lyon.\n2  The capital of Spain is Porto.\n"
    assert mattoni("facts", "off", "1")[1] == "1: off.\n"
    listed = json.loads(mattoni("facts", "list", "--json")[1])["facts"]
    assert [(fact["id"], fact["is_on"]) for fact in listed] == [(1, False), (2, True)]
    assert json.loads(mattoni("facts", "show", "2", "--json")[1])["object"] == "Porto"
    assert mattoni("facts", "remove", "1", "2")[1] == "1, 2: gone.\n"
    assert json.loads(mattoni("facts", "list", "--json")[1]) == {"facts": []}
    status, out, err = mattoni("facts", "add", SENTENCES[0], "--subject", "Spain", *more)
    assert status == 1 and "The subject 'Spain' is not in the sentence" in err
    assert mattoni("facts", "add", "--dry-run", SENTENCES[0])[1] == ""
    row = {
        "id": "a",
        "subject": "France",
        "prompt": "The capital of {} is",
        "target_true": "Paris",
        "target_new": "Lyon",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"paraphrase_prompts": [], "neighborhood_prompts": []}))
    for skill, says in (("nobody", "There is no brick called 'nobody'"), ("document", "'document' is no skill")):
        status, out, err = mattoni("facts", "eval", tmp_path / "rows.jsonl", "--skill", skill, *more)
        assert status == 1 and out == "" and says in err
