import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModel, PreTrainedTokenizerFast

from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import MAX_TOKENS, Embedder
from mattoni.errors import MattoniError

TEXTS = ["mortar is sand", "", "the kiln burns bricks at a thousand degrees", "a" * 900, "what is the garden", "Ж 砖"]


@pytest.fixture(scope="module")
def embedder(tiny_embedder_folder):
    return Embedder(tiny_embedder_folder)


def test_every_text_gets_a_unit_vector_in_the_order_given(embedder):
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 48)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))
    one_by_one = torch.cat([embedder.embed([text]) for text in TEXTS])
    # Padding and batching change the order of additions, nothing else.
    torch.testing.assert_close(vectors, one_by_one, rtol=0, atol=1e-6)


def test_the_same_texts_give_the_same_bytes(embedder, tiny_embedder_folder):
    again = Embedder(tiny_embedder_folder)
    assert torch.equal(embedder.embed(TEXTS), again.embed(TEXTS))
    assert embedder.digest == again.digest


def test_batches_of_any_size_give_the_same_vectors(embedder):
    torch.testing.assert_close(embedder.embed(TEXTS, batch=2), embedder.embed(TEXTS, batch=99), rtol=0, atol=1e-6)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_passages_get_the_vectors_of_messages_but_for_rounding(embedder, tiny_embedder_folder, monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    found = Embedder(tiny_embedder_folder).embed_passages(TEXTS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(TEXTS)))
    torch.testing.assert_close(found, embedder.embed(TEXTS), rtol=0, atol=0.02 if has_bf16 else 0)


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 48)


def test_a_vector_is_the_mean_of_the_hidden_states_of_transformers_itself(embedder, tiny_embedder_folder):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tiny_embedder_folder / "tokenizer.json"))
    model = AutoModel.from_pretrained(tiny_embedder_folder)
    for text in ("mortar is sand", "the kiln burns bricks at a thousand degrees"):
        ids = tokenizer(text, return_tensors="pt", truncation=False, padding=False)["input_ids"]
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(embedder.embed([text])[0], mean / mean.norm(), rtol=0, atol=1e-6)


def test_what_stands_behind_the_token_limit_does_not_count(embedder):
    long = "sand " * MAX_TOKENS
    assert torch.equal(embedder.embed([long]), embedder.embed([long + "kiln"]))
    assert not torch.equal(embedder.embed(["sand " * 20]), embedder.embed(["sand " * 20 + "kiln"]))


def test_two_threads_may_embed_at_once(embedder):
    expected = embedder.embed(TEXTS)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(vectors, expected) for vectors in pool.map(embedder.embed, [TEXTS] * 16))


def test_nothing_of_the_embedder_can_learn(embedder):
    assert not any(parameter.requires_grad for parameter in embedder._model.parameters())
    assert not embedder.embed(["sand"]).requires_grad


@pytest.mark.parametrize("broken", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_folder_is_refused_in_one_sentence(tiny_embedder_folder, tmp_path, broken):
    for file in tiny_embedder_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:20] if file.name == broken else file.read_bytes())
    with pytest.raises(MattoniError, match="holds no text embedder that can be loaded: fetch or copy it again"):
        Embedder(tmp_path)


@pytest.fixture(scope="module")
def builtin(real_home):
    return Embedder(fetch(BUILTIN_EMBEDDER))


@pytest.mark.slow
def test_the_builtin_embedder_gives_the_numbers_of_sentence_transformers(builtin):
    # Printed by sentence-transformers 6.2.0 on the same weights; the last text is longer than 256 tokens.
    texts = ["This is an example sentence", "Each sentence is converted", "Naïve café: 9,5 €? " * 100]
    expected = torch.tensor(
        [
            [0.06765690, 0.06349588, 0.04871317, 0.07930496, 0.03744803, 0.00265280],
            [0.08643859, 0.10276262, 0.00539450, 0.00204440, -0.00996341, 0.02538550],
            [0.07845391, -0.00812334, -0.00952842, 0.01842562, -0.00330131, 0.00474455],
        ]
    )
    torch.testing.assert_close(builtin.embed(texts)[:, :6], expected, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_one_message_takes_less_of_one_core_than_a_token(builtin):
    message = "What can you find just a short distance away from Cotopaxi?"
    builtin.embed([message])
    seconds = []
    for _ in range(20):
        # The thread's own time: a busy machine does not make the embedder slower.
        start = time.thread_time()
        builtin.embed([message])
        seconds.append(time.thread_time() - start)
    # A token of the built-in host has 22 ms; a processor without AVX-512 took 13 for this.
    assert min(seconds) < 0.022
