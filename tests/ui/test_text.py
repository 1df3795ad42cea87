"""What models, files and people wrote is shown as text: it draws nothing, fetches nothing and runs nothing."""

import pytest

from ui import text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("It costs $5 and $6.", "It costs \\$5 and \\$6."),
        ("![x](http://elsewhere/x.png)", "!\\[x](http://elsewhere/x.png)"),
        ("<script>alert(1)</script>", "\\<script>alert(1)\\</script>"),
        (":red[x] and :material/home: at 12:30", "\\:red[x] and \\:material/home: at 12:30"),
        ("one\ntwo\n\nthree", "one  \ntwo\n\nthree"),
        ("**bold** and `a < $b`", "**bold** and `a < $b`"),
    ],
)
def test_an_answer_keeps_its_markdown_and_loses_what_a_chat_does_not_need(said, shown):
    assert text.answer(said) == shown


def test_code_is_left_alone_also_while_it_is_still_being_written():
    code = "```python\nprint('<b>$x</b>')\n"
    assert text.answer(f"See:\n\n{code}```\n\n$1").endswith(f"{code}```\n\n\\$1")
    assert text.answer(code) == code


def test_a_name_is_escaped_and_cut():
    assert text.plain("<b>*evil*</b>.pdf") == "\\<b\\>\\*evil\\*\\</b\\>\\.pdf"
    assert text.plain("two\nlines") == "two lines"
    assert text.plain("x" * 100, 10) == "x" * 9 + "…"
