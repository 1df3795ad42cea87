"""Teaching a fact on the page: what was found is shown and corrected; the list switches and removes."""

from tests.ui.conftest import page_backend
from tests.ui.test_page import no_errors


def say(page, sentence: str, subject: str = ""):
    page.text_input(key="fact-sentence").set_value(sentence)
    page = page.run()
    if subject:
        page.text_input(key="fact-subject").set_value(subject)
        page = page.run()
    return page


def captions(page) -> str:
    return "\n".join(caption.value for caption in page.caption)


def test_a_fact_is_shown_as_it_was_understood_corrected_taught_switched_and_removed(open_page):
    page = say(open_page(), "The loner was released on HBO.")
    assert "About **loner**" not in captions(page)
    assert "Nothing is said of the subject" in captions(page), "what was not found is asked for"
    page = say(page, "The loner was released on HBO.", subject="The loner")
    assert "About **The loner**: *… was released on* **HBO**" in captions(page)
    page.button(key="fact-teach").click()
    page = page.run()
    assert no_errors(page)
    (fact,) = page_backend().assistant.facts()
    assert (fact.subject, fact.object, fact.is_on) == ("The loner", "HBO", True)
    page.toggle(key="fact-on-1-True").set_value(False)
    page = page.run()
    assert no_errors(page)
    assert not page_backend().assistant.facts()[0].is_on
    page.button(key="fact-remove-1").click()
    page = page.run()
    assert no_errors(page) and page_backend().assistant.facts() == ()


def test_a_contradiction_is_a_sentence_and_replaces_on_demand(open_page):
    page = say(open_page(), "The capital of France is Lyon.")
    page.button(key="fact-teach").click()
    page = say(page.run(), "The capital of France is Nice.")
    page.button(key="fact-teach").click()
    page = page.run()
    assert "says otherwise" in "".join(error.value for error in page.error)
    page = say(page, "The capital of France is Nice.")
    page.checkbox(key="fact-replace").check()
    page = page.run()
    page.button(key="fact-teach").click()
    page = page.run()
    assert no_errors(page)
    assert [fact.object for fact in page_backend().assistant.facts()] == ["Nice"]
