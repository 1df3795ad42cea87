"""The skills of the sidebar: found by a search without losing what was chosen, and left out of an answer."""

from assistant.conversations.store import open_store
from tests.assistant.conftest import write_adapter
from tests.ui.conftest import page_backend
from ui import skills


def bricks_with_a_skill(page, tmp_path):
    """The page with a skill of the user's own."""
    assistant = page_backend().assistant
    assistant.add_skill(write_adapter(tmp_path / "skill", assistant.host, seed=0), "my-skill")
    return page.run()


def button(page, key):
    return next(found for found in page.button if found.key == key)


def test_a_search_hides_lines_and_forgets_no_choice(open_page, tmp_path, monkeypatch):
    monkeypatch.setattr(skills, "_MANY", 1)
    page = bricks_with_a_skill(open_page(), tmp_path)
    (switch,) = [group for group in page.button_group if group.key == "use-my-skill"]
    switch.set_value("on").run()
    search = next(field for field in page.text_input if field.key == "search-skills")
    search.set_value("nothing like it").run()
    assert not page.exception and any("No skill is called" in caption.value for caption in page.caption)
    page.chat_input[0].set_value("Hello").run()
    (answer,) = [m for c in open_store().conversations("") for m in open_store().messages(c.id) if m.trace]
    assert [brick["name"] for brick in answer.trace["bricks"]] == ["my-skill"]


def test_an_answer_is_given_again_without_a_skill_that_took_part(open_page, tmp_path):
    page = bricks_with_a_skill(open_page(), tmp_path)
    (switch,) = [group for group in page.button_group if group.key == "use-my-skill"]
    switch.set_value("on").run()
    page.chat_input[0].set_value("Hello").run()
    (talk,) = open_store().conversations("")
    (before,) = [m for m in open_store().messages(talk.id) if m.role == "assistant"]
    button(page, f"without-my-skill-{before.id}").click().run()
    (after,) = [m for m in open_store().messages(talk.id) if m.role == "assistant"]
    assert not page.exception and after.status == "done" and after.trace["bricks"] == []
    captions = [caption.value for caption in page.run().caption]
    assert "With my\\-skill" in captions and "Without my\\-skill" in captions, "both answers stand side by side"
    page.chat_input[0].set_value("Something else").run()
    assert "With my\\-skill" not in [caption.value for caption in page.run().caption]


def switch_of(page):
    (switch,) = [group for group in page.button_group if group.key == "use-my-skill"]
    return switch


def test_each_conversation_keeps_what_was_switched_and_a_reload_finds_it(open_page, tmp_path):
    page = bricks_with_a_skill(open_page(), tmp_path)
    switch_of(page).set_value("on").run()
    page.chat_input[0].set_value("Hello").run()
    page.run()
    (first,) = open_store().conversations("")
    assert open_store().choices(first.id) == {"use-my-skill": "on"}

    new = next(found for found in page.button if found.key == "new")
    new.click().run()
    assert switch_of(page).value == "auto", "an empty conversation begins with nothing set"
    page.chat_input[0].set_value("Good day").run()
    page.run()
    second = next(c for c in open_store().conversations("") if c.id != first.id)
    assert not open_store().choices(second.id)

    again = open_page(conversation=first.id)
    assert not again.exception and switch_of(again).value == "on" and not [w.value for w in again.warning]
    assert switch_of(open_page(conversation=second.id)).value == "auto"
    open_store().delete(first.id)
    assert open_store().choices(first.id) is None
