"""The pages of those who signed in, driven as a user drives them; who signs in is said here, and in a real browser by a provider
(`test_signing_in.py`)."""

import sys
from collections.abc import Callable, Iterator

import pytest
from streamlit.testing.v1 import AppTest

from assistant.people.person import Person
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.paths import person_folder
from tests.assistant.test_people import somebody
from tests.ui.test_page import ask, conversation_of, no_errors, questions
from ui.backend import HostChoice
from ui.people import People, people
from ui.signing_in import SignIn
from ui.text import plain

ANNA = somebody("anna", name="Anna Rossi", email="anna@example.org", email_verified=True)
BERT = somebody("bert", name="Bert *<b>*")
SIGN_IN = SignIn(providers=("default", "okta"), redirect_uri="", administrators=frozenset({"anna@example.org"}))


@pytest.fixture
def open_for(open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    """Opens the page for whoever is here: a person, nobody, or somebody whose sign-in says something else."""
    monkeypatch.setattr(sys, "argv", [*sys.argv, *SIGN_IN.to_arguments()])
    people.clear()

    def opened(who: Person | None | MattoniError, **address: str) -> AppTest:
        def who_is_here(sign_in: SignIn) -> Person | None:
            if isinstance(who, MattoniError):
                raise who
            return who

        monkeypatch.setattr("ui.signing_in.who_is_here", who_is_here)
        page = open_page()
        for name, value in address.items():
            page.query_params[name] = value
        return page.run()

    yield opened
    for found in everybody()._open.values():
        found.store.close()
    people.clear()


def everybody() -> People:
    return people(HostChoice.from_arguments(sys.argv[1:]))


def keys(page: AppTest) -> set[str]:
    return {button.key for button in page.button if button.key}


def refused(page: AppTest) -> bool:
    """Whether there is nothing but the ways to sign in."""
    return keys(page) == {"sign-in-default", "sign-in-okta"} and not page.chat_input and not page.sidebar.button


def test_who_has_not_signed_in_sees_a_button_for_each_provider_and_nothing_else(open_for):
    page = open_for(None)
    assert refused(page) and no_errors(page)
    page = open_for(MattoniError("You signed in more than 24 hours ago: sign in again."), c="a", view="people")
    assert [error.value for error in page.error] == [plain("You signed in more than 24 hours ago: sign in again.")]
    assert refused(page)


def test_each_sees_their_own_conversations_and_an_address_is_no_key(open_for):
    page = ask(open_for(ANNA), "Where is the otter?")
    talk = conversation_of(page)
    assert no_errors(page) and "Where is the otter?" in questions(page) and "view-people" in keys(page)
    page = open_for(BERT, c=talk, view="people")
    assert no_errors(page) and "Where is the otter?" not in questions(page) and "view-people" not in keys(page)
    assert "c" not in page.query_params and f"open-{talk}" not in keys(page) and not page.table
    assert "Where is the otter?" in questions(open_for(ANNA, c=talk))


def test_an_administrator_sees_figures_and_no_contents(open_for):
    page = ask(open_for(BERT), "Where is the otter?")
    everybody().enter(BERT, False).assistant.add_knowledge(
        "otter-notes", [Attachment("otter.txt", b"The otter sleeps.")]
    )
    page = open_for(ANNA, view="people")
    assert no_errors(page)
    (table,) = page.table
    (row,) = [row for row in table.value.to_dict("records") if row["who"].startswith("Bert")]
    assert (row["conversations"], row["messages"], row["bricks of their own"]) == ("1", "2", "1")
    assert "otter" not in str(table.value.to_dict("records")) and "<b>" not in row["who"]


def test_deletion_asks_by_a_button_and_by_a_word(open_for):
    page = ask(open_for(BERT), "Where is the otter?")
    page = open_for(BERT, view="yours")
    assert "delete-all" in keys(page) and "delete-sure" not in keys(page) and "make-export" in keys(page)
    page.button(key="delete-all").click().run()
    assert page.button(key="delete-sure").disabled
    page.text_input(key="delete-word").set_value("delete").run()
    assert page.button(key="delete-sure").disabled
    page.button(key="delete-not").click().run()
    assert "delete-all" in keys(page) and person_folder(BERT.id).is_dir()
    page.button(key="delete-all").click().run()
    page.text_input(key="delete-word").set_value("DELETE").run()
    page.button(key="delete-sure").click().run()
    assert not page.exception and not person_folder(BERT.id).exists()
    page = open_for(BERT)
    assert [error.value for error in page.error] == [plain("Your data was deleted: sign in again to begin anew.")]
    assert refused(page)


def test_an_export_is_made_when_it_is_asked_for(open_for):
    ask(open_for(BERT), "Where is the otter?")
    page = open_for(BERT, view="yours")
    page.button(key="make-export").click().run()
    assert no_errors(page) and [one.proto.label for one in page.get("download_button")] == ["Save it"]
