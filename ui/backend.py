"""Starts the assistant once for all sessions, beside the page. Knows nothing of what is drawn."""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import streamlit as st

from assistant.conversations.store import ConversationStore, open_store
from assistant.host.engine_choice import LOCAL, EngineChoice
from mattoni.errors import MattoniError
from mattoni.paths import data_folder

if TYPE_CHECKING:
    from assistant.assistant import Assistant


@dataclass(frozen=True)
class HostChoice:
    """Which host answers and how it is loaded, as for `assistant.host.host.load_host`, and what decodes.

    Streamlit runs the page's script itself and takes no objects for it, so the choice is the script's argument.
    """

    name: str = "builtin"
    device: str = "auto"
    dtype: str = "auto"
    quantise: Literal["4bit"] | None = None
    weights: Literal["auto", "bf16", "fp16", "int8", "int4"] = "auto"
    engine: EngineChoice = LOCAL

    def to_arguments(self) -> list[str]:
        """What stands behind the script's name on the command line."""
        return [json.dumps(asdict(self))]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> "HostChoice":
        """The choice in a script's arguments; the builtin host where there are none."""
        if not arguments:
            return cls()
        told = json.loads(arguments[0])
        return cls(**{**told, "engine": EngineChoice(**told["engine"])})


class Desk(Protocol):
    """What the page draws of one person: their conversations and bricks, and the host that answers."""

    @property
    def store(self) -> ConversationStore:
        """What was said."""
        ...

    @property
    def assistant(self) -> "Assistant | None":
        """What answers; None while its host is loaded."""
        ...

    @property
    def problem(self) -> str | None:
        """The sentence why there is no host."""
        ...

    @property
    def folder(self) -> Path:
        """Their data folder."""
        ...

    @property
    def host_source(self) -> str:
        """What loads the host that answers once more."""
        ...

    def start(self) -> None:
        """Load the host again."""
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the start has ended; False when the time ran out first."""
        ...

    def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation for good."""
        ...


class Backend:
    """The desk of whoever runs Mattoni alone, and the host of all: the conversations, at once, and the assistant, as soon as its host is loaded.

    store       what was said: read, begun, named and exported here, with or without an assistant
    assistant   whatever asks it, changes what it remembers, or takes something away again

    Deleting is the one thing that is done in both states: see `delete_conversation`.
    """

    def __init__(self, host: HostChoice) -> None:
        self.store: ConversationStore = open_store()
        self.assistant: Assistant | None = None
        self.problem: str | None = None
        self._host = host
        self.start()

    @property
    def folder(self) -> Path:
        """The data folder."""
        return data_folder()

    @property
    def host_source(self) -> str:
        """What loads the host that answers once more: its name in the catalogue, or what the user named."""
        from assistant.host.catalogue import catalogue

        name = self.assistant.host.name if self.assistant is not None else ""
        return name if name in catalogue() else self._host.name

    def start(self) -> None:
        """Load the host on a thread of its own; afterwards either `assistant` or `problem` is set."""
        self.problem = None
        self._thread = threading.Thread(target=self._open, name="mattoni-start", daemon=True)
        self._thread.start()

    def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation for good; where no assistant is there yet, no turn runs and memory holds nothing of it."""
        if self.assistant is not None:
            self.assistant.delete_conversation(conversation)
        else:
            self.store.delete(conversation)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the start has ended; False when the time ran out first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _open(self) -> None:
        # Here, not above: torch and transformers take seconds to import, and the page shows meanwhile.
        import mattoni.torchvision_ops  # noqa: F401

        from assistant.assistant import Assistant

        host = self._host
        try:
            self.assistant = Assistant.open(
                host.name,
                host.device,
                host.dtype,
                host.quantise,
                self.store,
                give_way=True,
                weights=host.weights,
                engine=host.engine,
            )
        except MattoniError as problem:
            self.problem = str(problem)


@st.cache_resource(show_spinner=False)
def backend(host: HostChoice) -> Backend:
    """The one backend of this process for a host: whoever asks first starts it, `ui.launch` before there is a page."""
    return Backend(host)
