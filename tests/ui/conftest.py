"""The page on a tiny real assistant: random weights, the real path from the chat input to the store."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

import ui
from assistant.host.embedder import Embedder
from assistant.turn.recogniser import Recogniser
from assistant.turn.spaces import Spaces
from ui.backend import Backend, HostChoice, backend

PAGE = Path(ui.__file__).with_name("app.py")


def page_backend() -> Backend:
    """The backend that the page finds."""
    return backend(HostChoice.from_arguments(sys.argv[1:]))


@pytest.fixture
def tiny_models(tiny_host: Path, tiny_embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models in the places of the builtin ones; no message of the tests asks about a picture that is not there, all go on."""
    embedder = Embedder(tiny_embedder_folder)
    depths = torch.zeros_like(embedder.depths("text"))
    monkeypatch.setattr(sys, "argv", [str(PAGE), *HostChoice(str(tiny_host)).to_arguments()])
    monkeypatch.setattr(Spaces, "embedder", embedder)
    monkeypatch.setattr(Spaces, "picture_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "follow_ups", Recogniser(depths, depths, threshold=-1.0))
    monkeypatch.setattr(Spaces, "several_pictures", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "reading_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "naming_questions", Recogniser(depths, depths, threshold=1.0))


@pytest.fixture
def open_page(tiny_models: None) -> Iterator[Callable[..., AppTest]]:
    """Opens the page as a browser would: each call is a session of its own, all on one assistant."""
    backend.clear()

    def session(conversation: str | None = None) -> AppTest:
        page = AppTest.from_file(str(PAGE), default_timeout=60)
        if conversation is not None:
            page.query_params["c"] = conversation
        page.run()
        assert page_backend().wait(60)
        # An empty answer is as real as a long one: the longest here are short.
        page.session_state["max-tokens"] = 12
        page.session_state["temperature"] = 1.0
        return page.run()

    yield session
    assistant = page_backend().assistant
    if assistant is not None:
        assistant.close()
    backend.clear()
