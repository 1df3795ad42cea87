"""What models, files and people wrote is shown as text: it draws nothing, fetches nothing and runs nothing."""

import time
from textwrap import dedent

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ui import text

# What the page's own renderer reads, and what a text is meant to be read as: pictures, tags, addresses in <>, footnotes and
# definitions are words.
ALL = MarkdownIt("commonmark").enable(["table", "strikethrough"])
WORDS = text._PARSER


def shown(parser: MarkdownIt, words: str) -> list[tuple[str, str]]:
    """What a reader sees, in order: words and code, blanks alike; and whatever else is drawn, by its type."""
    seen: list[tuple[str, str]] = []
    for token in parser.parse(words):
        if token.type in ("fence", "code_block"):
            seen.append(("code", token.content))
        for child in token.children or ():
            if child.type == "code_inline":
                seen.append(("code", child.content))
            elif child.type in ("text", "softbreak", "hardbreak", "text_special"):
                said = child.content or " "
                if seen and seen[-1][0] == "words":
                    said = seen.pop()[1] + said
                seen.append(("words", said))
            elif child.type in ("image", "html_inline"):
                seen.append((child.type, child.content))
        if token.type == "html_block":
            seen.append((token.type, token.content))
        if token.type == "inline" and seen and seen[-1][0] == "words":
            seen.append(("end", ""))
    return [(kind, " ".join(said.split()) if kind == "words" else said) for kind, said in seen if kind != "end"]


@pytest.mark.parametrize(
    ("said", "drawn"),
    [
        ("It costs $5 and $6.", "It costs \\$5 and \\$6."),
        ("![x](http://elsewhere/x.png)", "!\\[x](http\\://elsewhere/x.png)"),
        ("<script>alert(1)</script>", "\\<script>alert(1)\\</script>"),
        (":red[x] and :material/home: at 12:30", "\\:red[x] and \\:material/home: at 12:30"),
        (
            "http://e` ![x](u) `",
            "http\\://e` ![x](u) `",
        ),  # made a link all the same; else it would swallow the backtick
        ("    ![x](u)", "!\\[x](u)"),  # Streamlit takes the indentation away, and then it is no code
        ("one\ntwo\n\nthree", "one  \ntwo\n\nthree"),
        ("**bold** and `a < $b`", "**bold** and `a < $b`"),
        ("[note]: this would vanish", "[note]\\: this would vanish"),
        ("a \\<b> and \\$1, \\\\<c>", "a \\<b> and \\$1, \\\\\\<c>"),
        ("| `a < b` | $1 |\n|---|---|\n| `$x` | <b> |", "| `a < b` | \\$1 |\n|---|---|\n| `$x` | \\<b> |"),
    ],
)
def test_an_answer_keeps_its_markdown_and_loses_what_a_chat_does_not_need(said, drawn):
    assert text.answer(said) == drawn


CODE = "if a < $b && c[0]:red[x] {\n    print('![x](y)')  # <b>\n}"
FRAMES = {
    "a fence": "See:\n\n```js\n{code}\n```\n\nand $1",
    "a fence of tildes": "~~~\n{code}\n~~~\n<b>",
    "a fence of four": "````md\n```\n{code}\n```\n````",
    "a fence in a numbered list": "1. First:\n\n   ```js\n   {code}\n   ```\n\n2. Then <b>.",
    "a fence right behind its number": "1. ```js\n   {code}\n   ```\n2. $x",
    "a fence of tildes in a list in a list": "- a\n  - b\n\n    ~~~\n    {code}\n    ~~~\n- c $1",
    "a fence in a quotation": "> Said:\n> ```\n> {code}\n> ```\n\n<b>",
    "indented": "So:\n\n    {code}\n\nand <b>",
    "indented in a list": "1. So:\n\n       {code}\n\n2. and <b>",
    "a fence that is still being written": "1. First:\n   ```js\n   {code}",
}


@pytest.mark.parametrize("frame", FRAMES)
def test_code_stays_letter_by_letter_wherever_it_stands(frame):
    template = FRAMES[frame]
    line = next(line for line in template.split("\n") if "{code}" in line)
    code = CODE.replace("\n", "\n" + line.removesuffix("{code}").replace("1. ", "   "))
    said = template.replace("{code}", code)
    (block,) = [content for kind, content in shown(ALL, text.answer(said)) if kind == "code"]
    assert CODE in block
    assert not {"<b>", "$1", "$x"} & set(text.answer(said).replace(code, "").replace("\\<b>", "").split())


@pytest.mark.parametrize(
    "said", ["`a < $b`", "``a ` < b``", "1. use `x < $y`\n2. or `<b>`", "> `$x`", "## `a<b>`", "**`<b>`**"]
)
def test_code_in_a_line_stays_as_it_is(said):
    assert text.answer(said) == said


def test_code_between_backticks_that_goes_on_in_the_next_line_is_drawn_in_one():
    assert text.answer("> so `a\n> < b` <c>") == "> so `a < b` \\<c>"


PIECES = [
    *"`$<>![]():|*_~\\#-+=&{} \t", "a", "b1", "\n", "\n\n", "```", "~~~", "    ", "> ", "- ", "1. ", "![x](http://e/x.png)",
    "[a](b)", "[f]: /a", "[^1]: ", "\n|--|--|\n", "| a | b |", "<b>", "<http://e>", "``", "`![x](u)`", "\\`", "\\|", ":::note",
]  # fmt: skip


@given(said=st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@settings(max_examples=500)
@example("| ` | ![x](http://e/x.png) | ` |\n|--|--|--|\n| a | b | c |")
@example("[f`]: /a\n![x](http://e/x.png) `")
@example("[^1]: `a\n[^2]: ![x](http://e/x.png) `")
@example("| \\`![x](u)` \\| | `![x](u)` |\n|--|--|\n")
@example("a `b\n|--|\n![x](u)|`")
def test_nothing_but_words_and_code_is_drawn_and_both_are_the_same_as_before(said):
    drawn = shown(ALL, text.answer(said))
    assert {kind for kind, _ in drawn} <= {"words", "code"}
    if not is_odd(said):
        assert drawn == shown(WORDS, dedent(said).strip())


def is_odd(said: str) -> bool:
    """Whether code may become words: beside the line under a table's head that is no table's, and beside a `\\|` in a cell."""
    tokens = WORDS.parse(dedent(said).strip())
    paragraphs = [t.content for before, t in zip(tokens, tokens[1:], strict=False) if before.type == "paragraph_open"]
    lines = [line for paragraph in paragraphs for line in paragraph.split("\n")]
    return "\\|" in said or any(set(line) <= set(" \t>|:-") and "-" in line for line in lines)


@given(said=st.text(max_size=200))
def test_any_text_is_drawn_as_it_is_said(said):
    drawn = shown(ALL, text.answer(said))
    assert {kind for kind, _ in drawn} <= {"words", "code"}
    assert drawn == shown(WORDS, dedent(said).strip())


def test_a_text_that_ends_in_code_is_told_from_one_that_does_not():
    assert text.in_code("so:\n```\nx") and text.in_code("1. a\n   ~~~\n   x\n   ~~~")
    assert not text.in_code("so `x`") and not text.in_code("```\nx\n```\nand") and not text.in_code("")


def test_a_long_answer_is_drawn_in_no_time():
    started = time.perf_counter()
    text.answer("1. use `x < $y`\n\n   ```\n   a < b\n   ```\n" * 500 + "`" * 5000 + "[" * 2000 + "*a " * 2000)
    assert time.perf_counter() - started < 5


def test_a_name_is_escaped_and_cut():
    assert text.plain("<b>*evil*</b>.pdf") == "\\<b\\>\\*evil\\*\\</b\\>\\.pdf"
    assert text.plain("two\nlines") == "two lines"
    assert text.plain("x" * 100, 10) == "x" * 9 + "…"
