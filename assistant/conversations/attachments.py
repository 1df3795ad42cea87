"""The bytes of attachments: a file each, named by their sha256, so that the same file is kept once.

Knows nothing of messages; who holds which file is told by the database.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from assistant.conversations.database import Database, FolderRefuses, Statements
from assistant.conversations.records import Attached, Sent
from mattoni.errors import MattoniError
from mattoni.files import remove_folder, write_bytes
from mattoni.kinds import kind_of


class AttachmentFiles:
    """The files of attachments in a folder, or their bytes in memory once the database has gone there."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder, self._database = folder, database
        self._in_memory: dict[str, bytes] = {}

    def keep(self, sent: Sent) -> Attached:
        """Write an attachment's bytes once, under their sha256.

        Called in the transaction that says which message holds them: until it does, no deletion may take them for nobody's.
        Raises FolderRefuses when they cannot be written.
        """
        content = bytes(sent.content)
        digest = hashlib.sha256(content).hexdigest()
        with self._database.lock:
            if not self._path(digest).is_file():
                if self._database.on_disk:
                    try:
                        write_bytes(self._path(digest), content)
                    except MattoniError as problem:
                        raise FolderRefuses(str(problem)) from (problem.__cause__ or problem)
                else:
                    self._in_memory[digest] = content
        kind = kind_of(content)
        return Attached(digest, sent.name, kind if kind != "unknown" else "document", len(content))

    def content(self, digest: str) -> bytes:
        """The bytes of an attachment. Raises MattoniError when they are gone."""
        with self._database.lock:
            if digest in self._in_memory:
                return self._in_memory[digest]
        try:
            return self._path(digest).read_bytes()
        except OSError as problem:
            raise MattoniError(
                f"The attachment {digest[:12]}… is no longer in {self._folder}: attach the file again."
            ) from problem

    def remove_unheld(self, digests: Iterable[str]) -> None:
        """Remove those of these files that no message holds any more."""
        wanted = tuple(sorted(digests))

        def remove(
            tables: Statements,
        ) -> None:  # as a writer, lest another process begins to hold one of them meanwhile
            for digest in unheld(tables, wanted):
                self._in_memory.pop(digest, None)
                if self._database.on_disk:
                    self._path(digest).unlink(missing_ok=True)

        if wanted:
            self._database.write_soon(("files", wanted), remove)

    def remove_all(self) -> None:
        """Remove every file, whoever holds it."""
        with self._database.lock:
            self._in_memory.clear()
            if self._folder.is_dir():
                remove_folder(self._folder)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def unheld(tables: Statements, digests: Iterable[str]) -> set[str]:
    """Those of these attachments that no message holds."""
    held = "SELECT 1 FROM attachments WHERE digest = ? LIMIT 1"
    return {digest for digest in digests if not tables.rows(held, (digest,))}
