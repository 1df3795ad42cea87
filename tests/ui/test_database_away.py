"""The page while the server that has the conversations is away: a sentence, and everything again when it is back."""

import contextlib
import time

from assistant.conversations import postgres as module
from tests.assistant.test_postgres import await_server, stopped
from tests.postgres import PASSWORD
from tests.ui.conftest import page_backend
from tests.ui.test_page import ask, conversation_of, no_errors, questions


def test_the_page_says_one_sentence_while_the_database_is_away_and_goes_on_after(postgres, monkeypatch, request):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    monkeypatch.setenv("MATTONI_DATABASE", postgres.new_database())
    open_page = request.getfixturevalue("open_page")
    page = ask(open_page(), "What is mortar?")
    assert no_errors(page) and questions(page) == ["What is mortar?"]
    store = page_backend().store
    with contextlib.closing(store):
        with stopped(postgres):
            time.sleep(0.1)
            page.run()
            assert not page.exception
            (sentence,) = [error.value for error in page.error]
            assert "does not answer" in sentence and "see that the server runs" in sentence and PASSWORD not in sentence
            assert conversation_of(page)  # the address still names it
        await_server(store)
        page.run()
        assert no_errors(page) and questions(page) == ["What is mortar?"] and not page.warning
        assert questions(ask(page, "And sand?")) == ["What is mortar?", "And sand?"]
