"""Makes other people's text safe to show. Knows nothing of the page.

Streamlit never runs HTML that comes as Markdown, but its Markdown does more than a chat needs: `$5 and $6` becomes a
formula, `:red[x]` a colour, `[note]: words` vanishes, and `![x](address)` makes the browser fetch a picture from an address
that a model or a document chose. What a user typed is shown with `st.text`, which reads no Markdown at all.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import dedent

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.backticks import backtick
from markdown_it.token import Token

# An escaped mark stays as it is. A tag, a formula, a picture, a footnote, a definition, a directive, a lone backtick; and an
# address, which would swallow the backtick behind it (it is made a link all the same).
_MARKS = re.compile(r"\\.|<|\$|!\[|\[(?=\^)|(?<=\]):|:(?=[A-Za-z:/])|`|(?<=[Ww]{3})\.", re.DOTALL)
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])")
# The line under a table's head. A parser that takes such a paragraph for a table cuts it at every `|`, code or not.
_TABLE_RULE = re.compile(r"^[ \t>|:-]*-[ \t|:-]*$", re.MULTILINE)


def answer(text: str) -> str:
    """An answer as Markdown that draws text, lists, tables and code, and nothing else.

    Code stays letter by letter, in a fence, indented or between backticks, wherever it stands; a line break stays one.
    """
    # As Streamlit does with what it is given: what is indented by that is no code.
    text = dedent(text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    lines = text.split("\n")
    found = _found(text, lines)
    drawn = []
    for number, line in enumerate(lines):
        if number in found.code:
            drawn.append(f"{line}\n")
            continue
        start, spans = found.starts.get(number, 0), found.spans[number]
        line = _defused(line, spans, start)
        if number + 1 in found.starts:
            drawn.append(f"{line} ")
        else:
            is_soft = number in found.soft and not re.search(r"(?:  |(?<!\\)(?:\\\\)*\\)$", line)
            drawn.append(f"{line}  \n" if is_soft else f"{line}\n")
    return "".join(drawn)[:-1]


def plain(text: str, length: int = 80) -> str:
    """A name or title for a place that reads Markdown (a button, a chip): every mark escaped, at most `length` long."""
    text = " ".join(text.split())
    short = text if len(text) <= length else text[: length - 1] + "…"
    return _PUNCTUATION.sub(r"\\\1", short)


def in_code(text: str) -> bool:
    """Whether a text ends in a block of code, where whatever is written next is code too or must not touch its fence."""
    last = [token for token in _PARSER.parse(text) if token.map is not None][-1:]
    return bool(last) and last[0].type in ("fence", "code_block")


@dataclass
class _Found:
    """What a parser found in the lines of a text, by the lines' numbers."""

    code: set[int] = field(default_factory=set)  # lines of blocks of code
    spans: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))  # of code in a line
    soft: set[int] = field(default_factory=set)  # lines that a paragraph goes on after
    # Where a line begins that goes on with the code of the line before: both are drawn as one, which means the same.
    starts: dict[int, int] = field(default_factory=dict)


def _found(text: str, lines: Sequence[str]) -> _Found:
    found = _Found()
    taken: dict[int, int] = {}  # how far the cells of a table's row have come
    tokens = _PARSER.parse(text)
    for before, token in zip(tokens, tokens[1:], strict=False):
        if token.type == "inline" and token.map is not None:
            may_be_cut = before.type not in ("td_open", "th_open") and _TABLE_RULE.search(token.content) is not None
            _look_at_paragraph(token, token.map[0], lines, taken, may_be_cut, found)
    for token in tokens:
        if token.type in ("fence", "code_block") and token.map is not None:
            found.code.update(range(*token.map))
    return found


def _look_at_paragraph(
    token: Token, first: int, lines: Sequence[str], taken: dict[int, int], may_be_cut: bool, found: _Found
) -> None:
    """Where code and soft ends of lines are in a paragraph, a heading or a cell of a table, from line `first` on."""
    inner = token.content.split("\n")
    found.soft.update(range(first, first + len(inner) - 1))
    columns, offsets, offset = [], [], 0
    for number, words in enumerate(inner, start=first):
        column = lines[number].find(words, taken.get(number, 0))
        if column < 0:
            # Not as it was written (a `\|` in a cell): nothing is taken for code, nor is it in the cells behind it.
            taken[number] = len(lines[number]) + 1
            return
        taken[number] = column + len(words)
        columns.append(column)
        offsets.append(offset)
        offset += len(words) + 1
    for start, end in _spans(token):
        if may_be_cut and "|" in token.content[start:end]:
            continue
        for place, words in enumerate(inner):
            low, high = max(start - offsets[place], 0), min(end - offsets[place], len(words))
            if low < high or (low == high == 0 and start < offsets[place] < end):
                found.spans[first + place].append((columns[place] + low, columns[place] + high))
                if start < offsets[place]:
                    found.starts[first + place] = columns[place]


def _spans(token: Token) -> list[tuple[int, int]]:
    return [child.meta["span"] for child in token.children or () if child.type == "code_inline"]


def _backtick(state: StateInline, silent: bool) -> bool:
    """The parser's own rule for code between backticks, which also keeps where it stands."""
    start, known = state.pos, len(state.tokens)
    if not backtick(state, silent):
        return False
    if len(state.tokens) > known and state.tokens[-1].type == "code_inline":
        state.tokens[-1].meta = {"span": (start, state.pos)}
    return True


def _picture_or_footnote(state: StateInline, silent: bool) -> bool:
    """`![` and `[^` are words: what stands behind them is no address."""
    mark = state.src[state.pos : state.pos + 2]
    if mark not in ("![", "[^"):
        return False
    if not silent:
        state.append_pending(mark)
    state.pos += 2
    return True


def _parser() -> MarkdownIt:
    """Parses as the page does what `answer` leaves: no HTML, no pictures, no addresses in <>, no definitions."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.disable(["html_block", "html_inline", "autolink", "image", "reference"])
    parser.inline.ruler.at("backticks", _backtick)
    parser.inline.ruler.before("link", "picture_or_footnote", _picture_or_footnote)
    return parser


_PARSER = _parser()


def _defused(line: str, spans: Sequence[tuple[int, int]], start: int) -> str:
    """The line from `start` on, with every mark outside the spans escaped that a chat does not need."""
    parts = []
    for low, high in (*spans, (len(line), len(line))):
        parts += [_MARKS.sub(_escaped, line[start:low]), line[low:high]]
        start = high
    return "".join(parts)


def _escaped(found: re.Match[str]) -> str:
    mark = found[0]
    return "!\\[" if mark == "![" else mark if mark.startswith("\\") else f"\\{mark}"
