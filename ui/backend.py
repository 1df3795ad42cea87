"""Starts the assistant once for all sessions, beside the page. Knows nothing of what is drawn."""

import threading
from typing import TYPE_CHECKING, Any

import streamlit as st

from assistant.conversations.store import ConversationStore, open_store
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from assistant.assistant import Assistant

HOST = "builtin"  # the host that this process answers with
LOADING: dict[str, Any] = {}  # how it is loaded: device, dtype, quantise


class Backend:
    """The conversations, at once, and the assistant, as soon as its host is loaded."""

    def __init__(self) -> None:
        self.store: ConversationStore = open_store()
        self.assistant: Assistant | None = None
        self.problem: str | None = None
        self.start()

    def start(self) -> None:
        """Load the host on a thread of its own; afterwards either `assistant` or `problem` is set."""
        self.problem = None
        self._thread = threading.Thread(target=self._open, name="mattoni-start", daemon=True)
        self._thread.start()

    def stop(self, conversation: str) -> None:
        """End the answer that a conversation may be waiting for."""
        ticket = self.assistant.running(conversation) if self.assistant is not None else None
        if ticket is not None:
            ticket.stop()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the start has ended; False when the time ran out first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _open(self) -> None:
        # Here, not above: torch and transformers take seconds to import, and the page shows meanwhile.
        import mattoni.torchvision_ops  # noqa: F401

        from assistant.assistant import Assistant

        try:
            self.assistant = Assistant.open(HOST, **LOADING, give_way=True)
        except MattoniError as problem:
            self.problem = str(problem)


_prepared: Backend | None = None


def prepare(host: str, device: str, dtype: str, quantise: str | None) -> None:
    """Begin to load a host before there is a page; `backend()` then finds it under way."""
    global HOST, LOADING, _prepared
    HOST, LOADING = host, {"device": device, "dtype": dtype, "quantise": quantise}
    _prepared = Backend()


@st.cache_resource(show_spinner=False)
def backend() -> Backend:
    """The one backend of this process."""
    return _prepared or Backend()
