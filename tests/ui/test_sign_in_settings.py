"""What the files of signing in say, and what is wrong with them: in one sentence, before the page is served."""

import importlib.util
import re
import sys
import time
from pathlib import Path

import pytest

from assistant.people.known import everybody, is_there
from assistant.people.person import Person
from mattoni.errors import MattoniError
from mattoni.paths import person_folder
from tests.assistant.test_people import somebody
from tests.ui.conftest import page_backend
from ui.launch import launch
from ui.people import People, SignedOut
from ui.signing_in import SignIn, check_port, read_sign_in

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef" * 2
GOOD = f"""
[auth]
redirect_uri = "http://localhost:8501/oauth2callback"
cookie_secret = "{SECRET}"
client_id = "mattoni"
client_secret = "of-the-client"
server_metadata_url = "https://provider.example/.well-known/openid-configuration"
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "secrets.toml"
    file.write_text(text)
    return file


def test_without_a_file_or_without_a_word_of_it_nobody_signs_in(tmp_path):
    assert read_sign_in([tmp_path / "none.toml"]) is None and read_sign_in([]) is None
    assert read_sign_in([written(tmp_path, "[another]\nkey = 'of another program'")]) is None


def test_a_whole_file_says_who_signs_in_and_holds_no_secret(tmp_path):
    text = f"{GOOD}\n[people]\nadministrators = ['Anna@example.org']\nhours = 2"
    sign_in = read_sign_in([tmp_path / "none.toml", written(tmp_path, text)])
    assert sign_in.providers == ("default",) and sign_in.hours == 2
    assert SECRET not in repr(sign_in.to_arguments()) and "of-the-client" not in repr(sign_in.to_arguments())
    assert SignIn.from_arguments(sign_in.to_arguments()) == sign_in and SignIn.from_arguments([""]) is None


def test_the_example_of_the_documents_is_whole(tmp_path):
    (example,) = re.findall(
        r"```toml\n(.*?)```", (ROOT / "docs/serving.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    sign_in = read_sign_in([written(tmp_path, example.replace("…", SECRET))])
    assert sign_in.administrators == {"anna@example.org"} and sign_in.hours == SignIn.model_fields["hours"].default


def test_several_providers_are_named(tmp_path):
    lines = [line for line in GOOD.splitlines() if "client" not in line and "metadata" not in line]
    one = 'client_id = "a"\nclient_secret = "b"\nserver_metadata_url = "https://a.example/c"\n'
    text = "\n".join([*lines, f"[auth.google]\n{one}", f"[auth.okta]\n{one}client_kwargs = {{ prompt = 'login' }}"])
    assert read_sign_in([written(tmp_path, text)]).providers == ("google", "okta")
    with pytest.raises(MattoniError, match=r"\[auth.my_own\]: Streamlit takes no underscore"):
        read_sign_in([written(tmp_path, text.replace("auth.okta", "auth.my_own"))])
    with pytest.raises(MattoniError, match=r"\[auth.okta\]: client_id is missing"):
        read_sign_in([written(tmp_path, "\n".join([*lines, f"[auth.google]\n{one}", "[auth.okta]"]))])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[auth", "is no TOML file"),
        ("[people]\nadministrators = []", r"signing in needs a section \[auth\]"),
        ("auth = 1", r"signing in needs a section \[auth\]"),
        ("[auth]", "redirect_uri is missing, and nobody can sign in without it"),
        (GOOD.replace("redirect_uri", "#"), "redirect_uri is missing"),
        (GOOD.replace("cookie_secret", "#"), "cookie_secret is missing"),
        (GOOD.replace("client_id", "#"), "client_id is missing"),
        (GOOD.replace('"of-the-client"', "7"), "client_secret is missing"),
        (GOOD.replace("server_metadata_url", "#"), "server_metadata_url is missing"),
        (GOOD.replace(SECRET, "xxx"), "cookie_secret is shorter than 32 characters: make one with"),
        (GOOD.replace("/oauth2callback", "/"), "redirect_uri is the page's own address and /oauth2callback"),
        (GOOD.replace("http://localhost:8501", ""), "redirect_uri is the page's own address"),
        (GOOD.replace("https://provider", "http://provider"), "server_metadata_url begins with https://"),
        (f"{GOOD}[people]\nadmins = []", r"people.admins: extra inputs are not permitted"),
        (f"{GOOD}[people]\nadministrators = 'anna'", "people.administrators: input should be a valid"),
        (f"{GOOD}[people]\nhours = 0", "people.hours: input should be greater than 0"),
        (f"{GOOD}[people]\nproviders = []", r"\[people\] has only administrators and hours"),
        (f"people = 3\n{GOOD}", r"people is a section: write \[people\]"),
    ],
)
def test_what_is_wrong_with_a_file_costs_one_sentence_without_its_secrets(tmp_path, text, sentence):
    file = written(tmp_path, text)
    with pytest.raises(MattoniError, match=sentence) as caught:
        read_sign_in([file])
    told = str(caught.value)
    assert told.startswith(str(file)) and "\n" not in told and SECRET not in told and "of-the-client" not in told


def test_without_authlib_the_sentence_names_the_extra(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "authlib" else found(name))
    with pytest.raises(MattoniError, match=r'pip install "mattoni\[sign-in\]"'):
        read_sign_in([written(tmp_path, GOOD)])


def test_a_file_that_is_named_and_says_nothing_serves_no_page(tmp_path):
    for file in (tmp_path / "none.toml", written(tmp_path, "[another]\nkey = 1")):
        with pytest.raises(MattoniError, match=r"needs a section \[auth\]"):
            launch(secrets=file)


def test_a_provider_that_would_send_people_to_another_port_serves_no_page(tmp_path):
    sign_in = read_sign_in([written(tmp_path, GOOD)])
    check_port(sign_in, 8501)
    with pytest.raises(
        MattoniError, match=r"leads to port 8501, and the page is on port 8502: .* write \{port\} there"
    ):
        check_port(sign_in, 8502)
    check_port(read_sign_in([written(tmp_path, GOOD.replace("8501", "{port}"))]), 8502)
    # Behind a proxy the page's own port says nothing.
    check_port(read_sign_in([written(tmp_path, GOOD.replace("http://localhost:8501", "https://chat.example"))]), 8502)


def test_administrators_are_named_by_an_address_that_is_vouched_for_or_by_an_id():
    anna = somebody("anna", email="Anna@Example.org", email_verified=True)
    liar = somebody("mallory", email="anna@example.org")
    nobody = somebody("nobody", email_verified=True)
    sign_in = SignIn(providers=("default",), redirect_uri="", administrators=frozenset({"anna@example.ORG", nobody.id}))
    assert sign_in.is_administrator(anna) and sign_in.is_administrator(nobody) and not sign_in.is_administrator(liar)
    empty = SignIn(providers=("default",), redirect_uri="", administrators=frozenset({""}))
    assert not empty.is_administrator(somebody("anna", email="", email_verified=True))


def test_who_signed_in_too_long_ago_has_expired(monkeypatch):
    sign_in = SignIn(providers=("default",), redirect_uri="", hours=1)
    person = somebody("anna", iat=time.time() - 3599)
    assert not sign_in.has_expired(person)
    assert sign_in.has_expired(somebody("anna", iat=time.time() - 3601))


# ---------------------------------------------------------------- everybody's desk


@pytest.fixture
def people(open_page) -> People:
    """Beside the assistant of a page."""
    open_page()
    return People(page_backend())


def signed_in(subject: str, since: float) -> Person:
    return somebody(subject, iat=since)


def test_a_store_is_closed_when_nobody_has_used_it_and_opened_again(people, monkeypatch):
    anna = people.enter(signed_in("anna", 1), False)
    first, talk = anna.store, anna.store.new()
    assert anna.store is first and anna.assistant.host is people.back.assistant.host
    now = time.monotonic()
    monkeypatch.setattr("ui.people.time.monotonic", lambda: now + 700)
    people.enter(signed_in("bert", 1), False)
    with pytest.raises(MattoniError, match="were closed"):
        first.conversations()
    assert anna.store is not first and anna.store.conversation(talk) is not None


def test_what_was_deleted_here_is_no_sign_in_any_more_and_a_new_one_begins_anew(people):
    old, later = signed_in("anna", 1), signed_in("anna", 2)
    desk, other = people.enter(old, False), people.enter(later, False)
    talk = desk.store.new()
    people.delete(old.id)
    for one in (desk, other):
        with pytest.raises(SignedOut):
            one.store.conversation(talk)
    for person in (old, later):  # also the one who signed in after the one who deleted
        with pytest.raises(SignedOut):
            people.enter(person, False)
    assert not is_there(old.id)
    anew = people.enter(signed_in("anna", 3), False)
    assert anew.store.conversations() == [] and [one.id for one in everybody()] == [old.id]


def test_what_another_process_deleted_is_noticed(people):
    from assistant.conversations.store import open_store
    from assistant.people.deleting import delete_data

    person = signed_in("anna", 1)
    desk = people.enter(person, False)
    desk.store.new()
    delete_data(open_store(person.id))
    with pytest.raises(SignedOut):
        _ = desk.store
    people.enter(signed_in("bert", 1), False)
    with pytest.raises(SignedOut, match="sign in again to begin anew"):
        people.enter(person, False)
    assert not person_folder(person.id).exists()


def test_a_deletion_that_cannot_be_done_loses_nothing_and_can_be_tried_again(people, monkeypatch):
    person = signed_in("anna", 1)
    desk = people.enter(person, False)
    talk = desk.store.new("Otters")
    assert desk.assistant is not None
    monkeypatch.setattr("assistant.assistant._ADDING_WAIT_S", 0.01)
    with desk.assistant._adding, pytest.raises(MattoniError, match="A brick is being made just now"):
        people.delete(person.id)
    assert desk.store.conversation(talk).title == "Otters"
    people.delete(person.id)
    assert not is_there(person.id)


def test_without_a_secret_the_page_needs_no_sign_in(open_page):
    page = open_page()
    assert not page.exception and not [button for button in page.button if button.key and "sign" in button.key]
    assert page.chat_input and len(sys.argv) == 2
