"""Searches the documents of conversations: what a question asks of one that does not stand whole in the prompt."""

import hashlib
from collections.abc import Callable

import torch

from knowledge_bricks.documents import Documents, Hit, searched_text
from knowledge_bricks.passages import DocumentText, PageText, split_document
from mattoni.cache import RecentlyUsed
from mattoni.records import Read
from mattoni.runtime import Stopped, TextEmbedder

# Passages that are embedded between two looks at whether the user has stopped the turn: about a second's work.
_EMBEDDED_AT_ONCE = 16


class EarlierDocuments:
    """Passages of documents with their vectors, kept by content for later questions."""

    def __init__(self, embedder: Callable[[], TextEmbedder]) -> None:
        self._embedder = embedder
        self._passages: RecentlyUsed[Documents] = RecentlyUsed(32)

    def search(self, document: Read, question: str, stopping: Callable[[], bool]) -> list[Hit]:
        """All passages of a document, those that the question asks for first. Raises Stopped."""
        content = hashlib.sha256(f"{document.name}\n{document.text}".encode()).hexdigest()
        documents = self._passages.get(
            (document.digest, content), lambda: self._passages_of(document.name, document.text, stopping)
        )
        return self._found(documents, question)

    def search_text(self, text: str, question: str, stopping: Callable[[], bool]) -> list[Hit]:
        """The same of a text that stands in the message itself; nothing is kept of it. Raises Stopped."""
        return self._found(self._passages_of("", text, stopping), question)

    def _passages_of(self, name: str, text: str, stopping: Callable[[], bool]) -> Documents:
        embed = self._embedder().embed
        passages = split_document(DocumentText(name, (PageText(1, text),)))
        vectors = []
        for start in range(0, len(passages), _EMBEDDED_AT_ONCE):
            if stopping():
                raise Stopped
            vectors.append(embed([searched_text(p) for p in passages[start : start + _EMBEDDED_AT_ONCE]]))
        return Documents(passages, torch.cat(vectors))

    def _found(self, documents: Documents, question: str) -> list[Hit]:
        wanted = question or documents.passages[0].text
        return documents.search(self._embedder().embed([wanted])[0], wanted, len(documents.passages))

    def clear(self) -> None:
        """Drop the passages of all documents."""
        self._passages.drop(lambda key: True)

    def forget(self, contents: frozenset[str]) -> None:
        """Drop the passages of these documents."""
        self._passages.drop(lambda key: isinstance(key, tuple) and key[0] in contents)
