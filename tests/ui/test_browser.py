"""The page in a real browser, with the builtin host and the shipped bricks: what only a browser can show.

Screenshots go to tests/screenshots (light, dark, phone); look at them.
"""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assistant.conversations.store import ConversationStore
from ui.examples import FOLDER

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
PATIENCE_S = 120
TRAINING_S = 900
VERBS, UNITS = ("Order", "Please send", "We need", "Bring"), ("boxes", "bags", "crates")
THINGS = (
    "nails",
    "screws",
    "bricks",
    "tiles",
    "pipes",
    "lamps",
    "hinges",
    "boards",
    "bolts",
    "ropes",
    "hooks",
    "brushes",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs chromium: apt-get install chromium"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(home: Path, port: int, *options: str | Path) -> Iterator[str]:
    """`mattoni ui` on a port; the address of its page."""
    command = [sys.executable, "-m", "front_ends.command", "ui", "--port", str(port), *map(str, options)]
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"MATTONI_HOME": str(home)})
    address = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < deadline, (home / "server.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def server(real_home: Path) -> Iterator[str]:
    """`mattoni ui` on a free port; the address of its page."""
    with serving(real_home, free_port(), "--host", "builtin") as address:
        yield address


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def chromium() -> Iterator["playwright.Browser"]:
    playwright.expect.set_options(timeout=PATIENCE_S * 1000)  # a busy machine takes longer than the usual five seconds
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


Open = Callable[..., "playwright.Page"]


@pytest.fixture
def open_page(server: str, chromium: "playwright.Browser") -> Iterator[Open]:
    """Opens the page in a context of its own and waits until it takes questions; a script dialog fails the test."""
    contexts, alarms = [], []

    def opened(path: str = "", **settings: object) -> "playwright.Page":
        context = chromium.new_context(viewport={"width": 1280, "height": 860}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
        page.goto(server + path)
        box(page).wait_for()
        playwright.expect(box(page)).to_be_enabled(timeout=PATIENCE_S * 1000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not alarms


def box(page: "playwright.Page") -> "playwright.Locator":
    return page.get_by_test_id("stChatInputTextArea")


def switch_of(page: "playwright.Page", skill: str, state: str) -> "playwright.Locator":
    """By its name: which skill stands first changes while the page is drawn, and with what the tests before it taught."""
    return page.locator(f".st-key-skill-{skill}").get_by_role("radio", name=state, exact=True)


def ask(page: "playwright.Page", text: str, *files: Path) -> None:
    if files:
        page.get_by_test_id("stChatInput").locator("input[type=file]").set_input_files(files)
        playwright.expect(page.get_by_test_id("stChatInputSubmitButton")).to_be_enabled()
        page.wait_for_timeout(1000)
    box(page).fill(text)
    box(page).press("Enter")


DROP = """([name, bytes, x, y]) => {
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}))
    const send = kind => document.elementFromPoint(x, y).dispatchEvent(
        new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer, clientX: x, clientY: y}))
    send("dragenter")
    send("dragover")
    // The page now lays its target over the question box; what lies under the pointer gets the file.
    setTimeout(() => { send("dragenter"); send("dragover"); send("drop") }, 1000)
}"""


def drop(page: "playwright.Page", file: Path) -> None:
    """Drag a file over the question box and let it go."""
    place = box(page).bounding_box()
    middle = [place["x"] + place["width"] / 2, place["y"] + place["height"] / 2]
    page.evaluate(DROP, [file.name, list(file.read_bytes()), *middle])


def ask_at_length(page: "playwright.Page", text: str) -> None:
    """Ask until an answer is seen while it is written: one that is drawn at random may end at once, and unseen."""
    for patience_s in (PATIENCE_S / 4, PATIENCE_S / 4, PATIENCE_S):
        ask(page, text)
        with contextlib.suppress(playwright.TimeoutError):
            page.get_by_text("answering", exact=False).wait_for(timeout=patience_s * 1000)
            return
    raise AssertionError("no answer was seen while it was written")


def stop(page: "playwright.Page") -> None:
    """Stop the answer that is being written, once some of it is there."""
    page.get_by_text("answering", exact=False).wait_for()
    page.wait_for_timeout(3500)  # a slow machine reads the prompt first
    page.locator(".st-key-stop button").click()
    page.get_by_text("Stopped. What had been said is kept.").wait_for()


def finished_answers(page: "playwright.Page") -> "playwright.Locator":
    return page.get_by_text("How this answer came about")


def wait_for_answers(page: "playwright.Page", count: int) -> None:
    playwright.expect(finished_answers(page)).to_have_count(count, timeout=PATIENCE_S * 1000)
    playwright.expect(box(page)).to_be_enabled(timeout=PATIENCE_S * 1000)


def store_of(home: Path) -> ConversationStore:
    return ConversationStore(home / "data")


def conversation_of(page: "playwright.Page") -> str:
    found = re.search(r"[?&]c=([0-9a-f]+)", page.url)
    assert found, page.url
    return found[1]


def shoot(page: "playwright.Page", name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.wait_for_timeout(800)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


LONG = "Write a very long story about a bricklayer who builds a tower, with many chapters."
# So that it is still being told when a busy machine's browser comes to its click: told as usual it ends, or goes round in circles.
NO_END = "?max-tokens=4096&temperature=2.0&top-p=1.0"


def test_a_photo_is_answered_a_second_answer_stopped_a_skill_switched_and_a_reload_loses_nothing(open_page, real_home):
    page = open_page()
    shoot(page, "light-empty")
    ask(page, "What is in the picture?", FOLDER / "orange.jpg")
    wait_for_answers(page, 1)
    assert page.locator("[class*='st-key-question-'] img").count() == 1
    talk = conversation_of(page)

    usual = page.url
    page.goto(usual + NO_END.replace("?", "&"))
    wait_for_answers(page, 1)
    ask_at_length(page, LONG)
    stop(page)
    page.goto(usual)
    said = store_of(real_home).messages(talk)
    question, partial = said[-2:]
    assert (question.text, partial.status) == (LONG, "stopped") and partial.text

    answers = len(said) // 2
    wait_for_answers(page, answers)
    switch_of(page, "english-german", "On").click()
    page.wait_for_timeout(1000)
    ask(page, "The man is reading a book.")
    wait_for_answers(page, answers + 1)
    finished_answers(page).last.click()
    page.get_by_text("Save as JSON").wait_for()
    assert "english-german" in page.locator(".mattoni-bars").first.inner_text()
    shoot(page, "light")

    before = [(m.role, m.text, m.status) for m in store_of(real_home).messages(talk)]
    page.reload()
    wait_for_answers(page, answers + 1)
    assert [(m.role, m.text, m.status) for m in store_of(real_home).messages(talk)] == before
    assert page.get_by_text(LONG).count() >= 1 and partial.text.split("\n")[0][:30] in page.content()


def test_a_question_sent_while_the_page_is_still_drawn_can_be_stopped(open_page):
    page = open_page(NO_END)
    box(page).fill(LONG)
    switch_of(page, "arithmetic", "On").click()
    box(page).press("Enter")
    stop(page)


def test_a_picture_can_be_dropped_on_the_question_box(open_page, real_home):
    page = open_page("?max-tokens=16")
    drop(page, FOLDER / "orange.jpg")
    page.get_by_test_id("stFileChipName").wait_for()
    page.wait_for_timeout(1000)
    ask(page, "What is in the picture?")
    wait_for_answers(page, 1)
    question = store_of(real_home).messages(conversation_of(page))[0]
    assert [attachment.name for attachment in question.attachments] == ["orange.jpg"]


def test_a_conversation_is_renamed_exported_and_deleted_from_its_menu(open_page, real_home):
    page = open_page()
    ask(page, "Name a colour.")
    wait_for_answers(page, 1)
    talk = conversation_of(page)
    page.locator(f".st-key-more-{talk} button").click()
    with page.expect_download() as download:
        page.get_by_text("Export as Markdown").click()
    assert "Name a colour." in Path(download.value.path()).read_text()
    page.get_by_label("Title").fill("Colours")
    page.get_by_label("Title").press("Enter")
    playwright.expect(page.locator(f".st-key-open-{talk}")).to_have_text("Colours")
    page.get_by_text("Delete for good").click()
    page.get_by_text("What would you like to look at?").wait_for()
    assert store_of(real_home).conversation(talk) is None


def test_a_reload_and_a_click_in_the_middle_leave_the_answer_running_and_a_second_tab_sees_it(open_page, real_home):
    page = open_page(NO_END)
    ask(page, LONG)
    page.get_by_text("answering", exact=False).wait_for()
    talk = conversation_of(page)
    page.get_by_text("Generation", exact=True).click()
    page.get_by_test_id("stSidebar").get_by_text("Host and memory", exact=True).click()
    page.reload()
    page.locator(".st-key-stop button").wait_for()
    assert store_of(real_home).messages(talk)[-1].status == "running"
    second = page.context.new_page()
    second.goto(page.url)
    second.locator(".st-key-stop button").click(timeout=PATIENCE_S * 1000)
    second.get_by_text("Stopped. What had been said is kept.").wait_for(timeout=PATIENCE_S * 1000)
    page.get_by_text("Stopped. What had been said is kept.").wait_for()


def test_what_the_sidebar_is_set_to_stays_with_its_conversation(open_page):
    page = open_page("?max-tokens=4")

    def german(state: str) -> "playwright.Locator":
        return switch_of(page, "english-german", state)

    german("On").click()
    ask(page, "Name a colour.")
    wait_for_answers(page, 1)
    talk = conversation_of(page)
    page.reload()
    wait_for_answers(page, 1)
    playwright.expect(german("On")).to_be_checked()
    page.locator(".st-key-new button").click()
    playwright.expect(german("Auto")).to_be_checked()
    # In a browser that has never seen it, too.
    page = open_page(f"?c={talk}")
    wait_for_answers(page, 1)
    playwright.expect(german("On")).to_be_checked()


def test_scripts_in_a_question_and_a_file_name_are_only_text(open_page, tmp_path):
    evil = tmp_path / "<img src=x onerror=alert(1)>.txt"
    evil.write_text("<script>alert(2)</script>")
    page = open_page()
    ask(page, "Repeat: <script>alert(3)</script> ![x](http://127.0.0.1:9/x.png)", evil)
    wait_for_answers(page, 1)
    assert page.locator("[data-testid='stChatMessage'] img[src^='http://127.0.0.1:9']").count() == 0


def test_it_looks_right_in_the_dark(open_page):
    page = open_page(color_scheme="dark")
    shoot(page, "dark-empty")
    page.get_by_test_id("stMainBlockContainer").get_by_text("What is the total?").click()
    wait_for_answers(page, 1)
    finished_answers(page).click()
    page.get_by_text("Save as JSON").wait_for()
    shoot(page, "dark")
    background = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", background)[:3]) < 64


def test_it_fits_a_phone(server, chromium):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(server)
    playwright.expect(box(page)).to_be_enabled(timeout=PATIENCE_S * 1000)
    shoot(page, "phone-empty")
    page.get_by_test_id("stMainBlockContainer").get_by_text("What is the total?").tap()
    wait_for_answers(page, 1)
    shoot(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_inside_the_host_a_function_is_looked_at_and_turned_off(server, chromium, look):
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    settings = phone if look == "phone" else {"viewport": {"width": 1280, "height": 860}, "color_scheme": look}
    context = chromium.new_context(**settings)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(f"{server}?view=inside")
    cells = page.locator(".mattoni-neurons i")
    cells.first.wait_for()
    assert cells.count() >= 30 * 32, "a row of groups for each layer"
    marked = cells.evaluate_all("all => all.filter(cell => getComputedStyle(cell).opacity > 0).length")
    assert 0 < marked < cells.count()
    if look == "phone":
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label("Question", exact=True).fill("Write a function that adds two numbers.")
    slider = page.get_by_role("slider", name="Turned to")
    assert float(slider.input_value()) == 0
    page.get_by_role("button", name="Answer with and without").click()
    page.get_by_text("As it is", exact=True).wait_for()
    shown = page.locator("[data-testid=stText]")
    playwright.expect(shown).to_have_count(2)
    answers = shown.all_inner_texts()
    assert answers[0] != answers[1], "without its neurons the host says something else"
    shoot(page, f"inside-{look}")
    context.close()


def test_a_skill_is_taught_from_two_hundred_rows_and_used_without_a_restart(open_page, tmp_path):
    chance = random.Random(0)
    slips = {
        f"{verb}: {count} {unit} of {thing}": f"QTY={count}; UNIT={unit}; ITEM={thing}"
        for verb, unit, thing, count in (
            (chance.choice(VERBS), chance.choice(UNITS), chance.choice(THINGS), chance.randint(2, 99))
            for _ in range(300)
        )
    }
    rows = list(slips.items())[:200]
    assert len(rows) == 200
    table = tmp_path / "slips.csv"
    table.write_text("question,answer\n" + "".join(f"{asked},{answer}\n" for asked, answer in rows))
    page = open_page()
    page.get_by_role("button", name="Teach a skill").click()
    page.get_by_test_id("stMain").locator("input[type=file]").set_input_files(table)
    page.get_by_text("held back; measured by the share of right answers").wait_for()
    page.get_by_text("Quick", exact=True).click()
    page.get_by_label("Name", exact=True).fill("order-slips")
    page.get_by_label("Name", exact=True).press("Enter")
    train = page.get_by_role("button", name="Train", exact=True)
    playwright.expect(train).to_be_enabled()
    train.click()
    page.get_by_text("Step ", exact=False).wait_for()
    page.screenshot(path=SCREENSHOTS / "teach.png", full_page=True)
    page.get_by_text("on 30 rows that were held back").wait_for(timeout=TRAINING_S * 1000)
    page.get_by_role("button", name="Back to the conversation").click()
    playwright.expect(box(page)).to_be_enabled()
    # Whether Auto may choose it is the gate's to say, by its keys; a person may always.
    switch_of(page, "order-slips", "On").click()
    page.wait_for_timeout(1000)
    ask(page, "Order: 7 boxes of candles")
    page.get_by_text("QTY=7").wait_for()
    page.get_by_role("button", name="Without order-slips").wait_for()
