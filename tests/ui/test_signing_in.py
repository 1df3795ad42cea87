"""Signing in with a provider, in a real browser: whom the page shows what, what an administrator sees, export and deletion."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assistant.conversations.store import ConversationStore
from assistant.people.known import everybody
from mattoni.paths import people_folder
from tests.conftest import link_real_cache
from tests.ui.provider import CLIENT, SECRET, provided
from tests.ui.test_browser import (
    LONG,
    NO_END,
    PATIENCE_S,
    ask,
    box,
    chromium,
    conversation_of,
    free_port,
    playwright,
    pytestmark,
    serving,
    shoot,
    wait_for_answers,
)

__all__ = ["chromium", "pytestmark"]

DAY_S = 24 * 3600
PEOPLE = {
    "Anna": {"sub": "anna", "name": "Anna Rossi", "email": "anna@example.org", "email_verified": True},
    "Bert": {"sub": "bert", "name": "Bert", "email": "bert@example.org", "email_verified": True},
    "Carla": {"sub": "carla", "name": "Carla", "email": "Carla@example.org", "email_verified": True},
    # Says that she is Carla, and no provider vouches for it.
    "Mallory": {"sub": "mallory", "name": "Carla", "email": "carla@example.org"},
    "Odd": {
        "sub": "../../../tmp/evil\u202e",
        "name": "\u202e<script>alert(1)</script>\u200b**Bold**",
        "email": 7,
    },
    "Late": {"sub": "late", "name": "Late", "ago": 2 * DAY_S},
    "Nobody": {"sub": "", "name": "Nobody"},
    "Dora": {"sub": "dora", "name": "Dora"},
}
SHORT = "?max-tokens=6"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people-home")
    link_real_cache(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def at_home(home: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATTONI_HOME", str(home))
        yield


@pytest.fixture(scope="module")
def server(home: Path, tiny_host: Path) -> Iterator[str]:
    """The page of people, with a small host; the address that its provider knows."""
    port = free_port()
    with provided(free_port(), PEOPLE) as metadata:
        secrets = home / "secrets.toml"
        secrets.write_text(
            f"""
[auth]
redirect_uri = "http://localhost:{{port}}/oauth2callback"
cookie_secret = "{os.urandom(32).hex()}"
client_id = "{CLIENT}"
client_secret = "{SECRET}"
server_metadata_url = "{metadata}"

[people]
administrators = ["carla@example.org"]
"""
        )
        with serving(home, port, "--host", tiny_host, "--secrets", secrets) as address:
            yield address.replace("127.0.0.1", "localhost")


Enter = Callable[..., "playwright.Page"]


@pytest.fixture
def enter(server: str, chromium: "playwright.Browser") -> Iterator[Enter]:
    """Signs somebody in, in a browser of their own. A script dialog fails the test."""
    contexts, alarms = [], []

    def entered(who: str, waits: bool = True) -> "playwright.Page":
        context = chromium.new_context(viewport={"width": 1280, "height": 860})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
        page.goto(server)
        sign_in(page, who)
        if waits:
            playwright.expect(box(page)).to_be_enabled(timeout=PATIENCE_S * 1000)
        return page

    yield entered
    for context in contexts:
        context.close()
    assert not alarms


def sign_in(page: "playwright.Page", who: str) -> None:
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("link", name=who, exact=True).click()
    page.wait_for_url("http://localhost:*/")


def go(page: "playwright.Page", server: str, path: str) -> None:
    page.goto(server + path)
    playwright.expect(box(page)).to_be_enabled(timeout=PATIENCE_S * 1000)


def words_below(folder: Path, *words: str) -> list[str]:
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return [word for word in words if word.encode() in content]


def add_knowledge(page: "playwright.Page", name: str, file: Path) -> None:
    page.locator(".st-key-add-knowledge button").first.click()
    form = page.get_by_test_id("stPopoverBody")
    form.get_by_label("Name", exact=True).fill(name)
    form.locator("input[type=file]").set_input_files(file)
    form.get_by_text(file.name).first.wait_for()
    page.wait_for_timeout(1000)
    form.get_by_role("button", name="Add", exact=True).click()
    page.locator(f".st-key-use-{name}").wait_for()


def test_two_people_see_what_is_theirs_and_an_administrator_sees_figures(enter, server, tmp_path):
    notes = tmp_path / "otters.txt"
    notes.write_text("The secret-otter sleeps in the river.")
    anna, bert = enter("Anna"), enter("Bert")
    go(anna, server, SHORT)
    ask(anna, "Where is my secret-otter?", notes)
    wait_for_answers(anna, 1)
    talk = conversation_of(anna)
    add_knowledge(anna, "otter-notes", notes)
    shoot(anna, "signed-in")

    go(bert, server, f"{SHORT}&c={talk}&view=people")
    playwright.expect(bert.get_by_text("What would you like to look at?")).to_be_visible()
    ask(bert, "Where is the fox?")
    wait_for_answers(bert, 1)
    assert "otter" not in bert.content() and bert.locator(".st-key-view-people").count() == 0
    assert bert.locator("[class*='st-key-talk-']").count() == 1
    assert "fox" not in anna.content()

    mallory = enter("Mallory")
    assert mallory.locator(".st-key-view-people").count() == 0
    carla = enter("Carla")
    carla.locator(".st-key-view-people button").first.click()
    table = carla.get_by_test_id("stTable")
    table.wait_for()
    table.get_by_text("Anna Rossi").wait_for()
    rows = [[cell.strip() for cell in row.locator("th, td").all_inner_texts()] for row in table.locator("tr").all()]
    (row,) = [row for row in rows if "Anna Rossi" in row]
    assert "anna@example.org" in row and row[row.index("anna@example.org") + 2 :][:2] == ["1", "2"]
    assert {"Bert", "Anna Rossi"} <= {cell for row in rows for cell in row}
    assert "otter" not in carla.content() and "fox" not in carla.content()
    shoot(carla, "people")

    anna.locator(".st-key-view-yours button").first.click()
    anna.get_by_role("button", name="Make the file").click()
    with anna.expect_download() as download:
        anna.get_by_role("button", name="Save it").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        (name,) = [name for name in packed.namelist() if name.startswith("conversations/")]
        assert "Where is my secret-otter?" in packed.read(name).decode()
        assert "bricks/otter-notes/brick.yaml" in packed.namelist()
        assert [n for n in packed.namelist() if n.startswith("attachments/") and n.endswith("otters.txt")]
        assert "fox" not in "".join(packed.read(name).decode(errors="replace") for name in packed.namelist())


def test_deletion_asks_twice_stops_the_turn_that_runs_and_leaves_nothing(enter, server, tmp_path):
    notes = tmp_path / "badgers.txt"
    notes.write_text("The hidden-badger sleeps in its sett.")
    dora = enter("Dora")
    add_knowledge(dora, "badger-notes", notes)
    go(dora, server, NO_END)
    ask(dora, f"{LONG} hidden-badger")
    dora.locator(".st-key-stop button").wait_for()
    second = dora.context.new_page()
    second.set_default_timeout(PATIENCE_S * 1000)
    second.goto(server)
    second.locator(".st-key-view-yours button").first.wait_for()
    (folder,) = [people_folder() / one.id for one in everybody() if one.name == "Dora"]
    assert words_below(people_folder(), "hidden-badger") and ConversationStore(folder).conversations()

    dora.locator(".st-key-view-yours button").first.click()
    dora.get_by_role("button", name="Delete everything", exact=True).click()
    sure = dora.get_by_role("button", name="Delete for good", exact=True)
    playwright.expect(sure).to_be_disabled()
    dora.get_by_label("Write DELETE to delete everything").fill("delete")
    dora.get_by_label("Write DELETE to delete everything").press("Enter")
    playwright.expect(sure).to_be_disabled()
    dora.get_by_label("Write DELETE to delete everything").fill("DELETE")
    dora.get_by_label("Write DELETE to delete everything").press("Enter")
    playwright.expect(sure).to_be_enabled()
    shoot(dora, "deleting")
    sure.click()
    dora.get_by_role("button", name="Sign in", exact=True).wait_for()
    assert not folder.exists() and words_below(people_folder(), "hidden-badger", "Dora") == []

    # A page of hers that is still open begins nothing anew; who signs in again does.
    second.locator(".st-key-view-yours button").first.click()
    second.get_by_text("Your data was deleted: sign in again to begin anew.").wait_for()
    assert not folder.exists()
    sign_in(dora, "Dora")
    playwright.expect(box(dora)).to_be_enabled(timeout=PATIENCE_S * 1000)
    assert folder.is_dir() and dora.locator("[class*='st-key-talk-']").count() == 0
    assert dora.locator(".st-key-use-badger-notes").count() == 0


def test_a_person_who_is_deleted_by_command_is_out_on_a_page_that_is_open(enter, server, home):
    bert = enter("Bert")
    go(bert, server, NO_END)
    ask(bert, f"{LONG} marten")
    bert.locator(".st-key-stop button").wait_for()
    (one,) = [known for known in everybody() if known.name == "Bert"]
    command = [sys.executable, "-m", "front_ends.command", "people"]
    told = subprocess.run([*command, "list", "--json"], capture_output=True, text=True, check=True).stdout
    assert one.id in {person["id"] for person in json.loads(told)["people"]}
    subprocess.run([*command, "delete", one.id, "--yes"], check=True)
    bert.get_by_text("Your data was deleted: sign in again to begin anew.").wait_for()
    time.sleep(2)
    assert not (people_folder() / one.id).exists() and words_below(people_folder(), "marten") == []


def test_names_that_lead_elsewhere_or_hide_are_only_text(enter, server):
    page = enter("Odd")
    go(page, server, SHORT)
    ask(page, "What is mortar?")
    wait_for_answers(page, 1)
    shown = page.locator(".st-key-account").inner_text()
    assert "<script>alert(1)</script> **Bold**" in shown and "\u202e" not in page.content()
    assert all(len(folder.name) == 32 for folder in people_folder().iterdir() if not folder.name.startswith("."))


def test_who_signed_in_long_ago_signs_in_again(enter):
    page = enter("Late", waits=False)
    page.get_by_text("You signed in more than 24 hours ago: sign in again.").wait_for()
    assert page.get_by_test_id("stChatInput").count() == 0 and "Late" not in [one.name for one in everybody()]


def test_a_token_that_names_nobody_opens_nothing(enter):
    page = enter("Nobody", waits=False)
    page.get_by_text("The provider does not say who you are").wait_for()
    assert page.get_by_test_id("stChatInput").count() == 0


def test_who_signs_out_sees_nothing_and_their_address_is_no_key(enter, server):
    page = enter("Anna")
    go(page, server, SHORT)
    ask(page, "What is mortar?")
    wait_for_answers(page, 1)
    address = page.url
    page.locator(".st-key-sign-out button").first.click()
    page.get_by_role("button", name="Sign in", exact=True).wait_for()
    page.goto(address)
    page.get_by_role("button", name="Sign in", exact=True).wait_for()
    assert "mortar" not in page.content() and page.get_by_test_id("stChatInput").count() == 0
