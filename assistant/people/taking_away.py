"""All that is somebody's in one zip: conversations as JSON to read, attachments, and everything else in their data folder."""

import json
import zipfile
from pathlib import Path

from assistant.conversations.store import ConversationStore
from mattoni.errors import MattoniError
from mattoni.files import plain_name, replacing

_INSIDE = ("conversations.sqlite3", "attachments")  # how it is kept here; what is in it is written out


def export_to(store: ConversationStore, target: Path) -> None:
    """Write the zip, whole or not at all: a JSON file for each conversation, attachments by digest and name, bricks as they are.

    Raises MattoniError when the file is there already, the disk is full, or the database is away.
    """
    if target.exists():
        raise MattoniError(f"{target} is there already: name a file that is not.")
    with (
        replacing(target) as fresh,
        zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed,
    ):
        attached: dict[str, str] = {}
        for number, conversation in enumerate(reversed(store.conversations()), 1):
            name = f"{number:05d} {plain_name(conversation.title.replace('/', ' '))[:60].rstrip(' .')}.json"
            told = json.loads(store.export_json(conversation.id)) | {"choices": store.choices(conversation.id)}
            packed.writestr(f"conversations/{name}", json.dumps(told, ensure_ascii=False, indent=2) + "\n")
            for message in told["messages"]:
                attached.update({one["digest"]: one["name"] for one in message["attachments"]})
        lost = [digest for digest, name in attached.items() if not _write_attachment(packed, store, digest, name)]
        if lost:
            packed.writestr("attachments/lost.json", json.dumps(lost, indent=2) + "\n")
        for path in sorted(store.folder.rglob("*")):
            place = path.relative_to(store.folder)
            if not place.parts[0].startswith((*_INSIDE, ".")) and path.is_file() and not path.is_symlink():
                packed.write(path, place.as_posix())


def _write_attachment(packed: zipfile.ZipFile, store: ConversationStore, digest: str, name: str) -> bool:
    """False where its bytes are gone."""
    try:
        content = store.content(digest)
    except MattoniError:
        return False
    packed.writestr(f"attachments/{digest[:16]} {plain_name(name)}", content)
    return True
