"""Who may ask, and how much."""

import hashlib
import os
from pathlib import Path

import pytest

from mattoni.errors import MattoniError
from server.keys import Keys, read_keys
from server.problems import ApiError

ANNA, BERT = "a-key-of-anna-0001", "a-key-of-bert-0001"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    digest = hashlib.sha256(BERT.encode()).hexdigest()
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"{ANNA}: {{user: anna, requests_per_minute: 2, tokens_per_day: 100, bricks: [photo]}}\n"
        f"sha256:{digest}: {{user: bert}}\n"
    )
    return path


def refused(status: int, call):
    with pytest.raises(ApiError) as raised:
        call()
    assert raised.value.status == status and ANNA not in str(raised.value) and BERT not in str(raised.value)
    return raised.value


def test_a_key_is_found_as_it_is_written_or_by_its_digest_and_no_other(file):
    keys = Keys(file)
    assert keys.key_of(f"Bearer {ANNA}").user == "anna" and keys.key_of(f"bearer  {BERT} ").user == "bert"
    digest = hashlib.sha256(BERT.encode()).hexdigest()
    for given in (
        "",
        "Bearer",
        "Bearer ",
        ANNA,
        f"Basic {ANNA}",
        f"Bearer {ANNA}x",
        f"Bearer sha256:{digest}",
        "Bearer ä",
    ):
        refused(401, lambda given=given: keys.key_of(given))


def test_requests_are_counted_over_a_minute_and_tokens_over_a_day(file):
    now = [1_000_000.0]
    keys = Keys(file, clock=lambda: now[0])
    anna, bert = keys.key_of(f"Bearer {ANNA}"), keys.key_of(f"Bearer {BERT}")
    keys.admit(anna)
    now[0] += 30
    keys.admit(anna)
    assert refused(429, lambda: keys.admit(anna)).retry_s == 31
    keys.admit(bert)
    now[0] += 31
    keys.admit(anna)
    keys.spend("anna", 100)
    now[0] += 60
    problem = refused(429, lambda: keys.admit(anna))
    assert "tokens a day" in str(problem)
    now[0] += problem.retry_s
    keys.admit(anna)


def test_a_key_that_is_revoked_or_taken_out_is_refused_with_the_next_request_and_a_broken_file_takes_none_away(file):
    keys = Keys(file)

    def write(text: str) -> None:
        before = file.stat().st_mtime_ns
        file.write_text(text)
        os.utime(file, ns=(before + 1_000_000, before + 1_000_000))

    write(f"{ANNA}: {{user: anna, revoked: true}}\n")
    refused(403, lambda: keys.key_of(f"Bearer {ANNA}"))
    refused(401, lambda: keys.key_of(f"Bearer {BERT}"))
    write(f"{BERT}: {{user: bert}}\n")
    assert keys.key_of(f"Bearer {BERT}").user == "bert"
    write("{")
    assert keys.key_of(f"Bearer {BERT}").user == "bert"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("secret-key-0123456789: {usr: anna}", "user: field required"),
        ("secret-key-0123456789: {user: anna, requests_per_minute: 0}", "requests_per_minute: input should be greater"),
        ("short: {user: anna}", "1 of the keys are shorter than 16 characters"),
        ("[secret-key-0123456789", "is no YAML file of keys"),
        ("- secret-key-0123456789", "a key: input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_not_right_is_one_sentence_without_a_key(tmp_path, text, sentence):
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(MattoniError, match=sentence) as raised:
        read_keys(tmp_path / "keys.yaml")
    assert "secret-key" not in str(raised.value)
