"""Deletes all that is somebody's: database, files, bricks. What a running assistant holds of it is the assistant's to forget."""

from assistant.conversations.store import ConversationStore
from assistant.people.known import changing
from mattoni.files import remove_folder


def delete_data(store: ConversationStore) -> None:
    """Delete what was said in a person's store and everything in their data folder; the store is ended.

    Raises MattoniError where the database is away, or a file cannot be removed: what is left then is found again and deleted by
    the next call.
    """
    store.destroy()
    with changing():
        if store.folder.is_dir():
            remove_folder(store.folder)
