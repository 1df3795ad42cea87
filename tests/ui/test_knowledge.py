"""Knowledge on the page: what it costs, what can be done with it, and where a citation leads."""

from assistant.host.sampling import Sampling
from mattoni.inputs import Attachment
from tests.ui.conftest import page_backend
from tests.ui.test_page import no_errors

PAGES = "The kiln burns bricks.\n\n" + "Clay is dug in autumn. " * 80 + "\n\nThe xylograph lies beneath the stairs."
SHORT = Sampling(temperature=0, max_tokens=4)


def asked(open_page):
    """A page on which an answer cites a document."""
    open_page()
    assistant = page_backend().assistant
    assistant.add_knowledge("attic", [Attachment("attic.md", PAGES.encode())])
    talk = assistant.store.new()
    assert assistant.ask("Where lies the xylograph?", sampling=SHORT, conversation=talk).wait(60)
    return open_page(talk), assistant


def opened_menu(page, name):
    page.session_state[f"manage-{name}"] = True
    return page.run()


def html_of(page) -> str:
    return "\n".join(element.proto.body for element in page.get("html"))


def test_a_citation_opens_the_document_with_the_passage_marked(open_page):
    page, _ = asked(open_page)
    (button,) = [button for button in page.button if str(button.key).startswith("cited-") and button.key.endswith("-1")]
    button.click()
    page = page.run()
    assert no_errors(page) and page.header[0].value == r"attic\.md"
    marked = html_of(page).split("<mark>")[1].split("</mark>")[0]
    assert "The xylograph lies beneath the stairs." in marked
    before = html_of(page).split("<mark>")[0]
    assert "Clay is dug in autumn." in before
    page.button(key="leave").click()
    page = page.run()
    assert no_errors(page) and page.query_params.get("brick") is None and page.chat_message


def test_what_a_citation_says_of_markup_is_shown_as_it_stands(open_page):
    open_page()
    assistant = page_backend().assistant
    assistant.add_knowledge("web", [Attachment("notes.txt", b"The <script>alert(1)</script> tag of the xylograph.")])
    talk = assistant.store.new()
    assert assistant.ask("What of the xylograph?", sampling=SHORT, conversation=talk).wait(60)
    page = open_page(talk)
    next(button for button in page.button if str(button.key).startswith("cited-")).click()
    page = page.run()
    assert "&lt;script&gt;alert(1)" in html_of(page) and "<script>" not in html_of(page)


def test_a_passage_that_was_changed_since_is_said_to_be_gone(open_page):
    page, assistant = asked(open_page)
    button = next(button for button in page.button if str(button.key).startswith("cited-"))
    assistant.add_knowledge("attic", [Attachment("attic.md", b"The attic is empty.")], update=True)
    button.click()
    page = page.run()
    assert no_errors(page) and page.info[0].value.startswith("This passage is not in attic any more")


def test_a_brick_says_what_it_costs_and_is_gone_back_to_renamed_switched_and_removed(open_page):
    page, assistant = asked(open_page)
    assert any("1 document, " in caption.value and " ms a search" in caption.value for caption in page.caption)
    assistant.add_knowledge("attic", [Attachment("door.md", b"The door is green.")], update=True)
    page = opened_menu(page, "attic")
    page.button(key="back-attic-1").click()
    page = page.run()
    assert no_errors(page) and assistant.bricks().get("attic").card.version == 1
    page = opened_menu(page, "attic")
    page.text_input(key="rename-attic").set_value("loft")
    page = page.run()
    assert no_errors(page) and assistant.bricks().get("loft")
    page = opened_menu(page, "loft")
    page.button(key="off-loft").click()
    page = page.run()
    assert no_errors(page) and assistant.switched_off() == {"loft"}
    page.button(key="on-loft").click()
    page = page.run()
    assert no_errors(page) and assistant.switched_off() == frozenset()
    page = opened_menu(page, "loft")
    page.button(key="removed-loft").click()
    page = page.run()
    assert no_errors(page) and "loft" not in {brick.name for brick in assistant.bricks().usable}


def test_a_name_that_is_taken_is_a_sentence_on_the_page(open_page):
    page, assistant = asked(open_page)
    page = opened_menu(page, "attic")
    page.text_input(key="rename-attic").set_value("document")
    page = page.run()
    assert "There is a brick called 'document' already" in page.error[0].value
    assert assistant.bricks().get("attic")
