"""Turns HTML into what a reader of the page sees. Fetches nothing and runs nothing."""

import re

from lxml import etree  # type: ignore[import-untyped]
from lxml import html as lxml_html

from assistant.turn.look.markdown_tables import markdown_table, spread

_UNSEEN = {"script", "style", "noscript", "template", "head", "iframe", "object", "svg", "canvas"}
_BLOCKS = set(
    "p div section article header footer main nav aside ul ol li dl dt dd table tr br hr pre blockquote h1 h2 h3 h4 h5 "
    "h6 figure figcaption form title address fieldset details summary".split()
)
_MOST_SPAN = 100
_MOST_CELLS = 200_000
_TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)\b[^<>]*>", re.I)
_KNOWN = _BLOCKS | set(
    "html head body a b i em strong span img link meta script style td th thead tbody code small sup sub u center font".split()
)
_OPENING = re.compile(
    r"\s*(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*(?:<!doctype\s+html[^>]*>\s*(?:<!--.*?-->\s*)*|<html(?:\s[^>]*)?>\s*)<[a-z!]",
    re.I | re.S,
)
_MOSTLY_TAGGED, _FEWEST_TAGS = 0.8, 3


def is_html(text: str) -> bool:
    """Whether a text is a web page: begins as one, or is a piece of one, with markup on nearly every line.

    A tag somewhere in a log, in notes or in a program makes no page of it.
    """
    start = text[:65_536]
    tags = [tag for _, tag in _TAG.findall(start) if tag.lower() in _KNOWN]
    if len(tags) < _FEWEST_TAGS:
        return False
    if _OPENING.match(start):
        return True
    first = _TAG.match(start.lstrip())
    if not first or first.group(2).lower() not in _KNOWN or not start.rstrip().endswith(">"):
        return False
    lines = [line for line in start.split("\n") if line.strip()]
    return sum(bool(_TAG.search(line)) for line in lines) >= _MOSTLY_TAGGED * len(lines)


def html_text(markup: str | bytes) -> str:
    """Title and text, a block per line, tables as Markdown; scripts and what is hidden dropped."""
    # As bytes, because lxml refuses a str that declares a charset of its own.
    content = markup.encode() if isinstance(markup, str) else markup
    parser = lxml_html.HTMLParser(
        encoding="utf-8" if isinstance(markup, str) else None, remove_comments=True, remove_pis=True
    )
    try:
        root = lxml_html.document_fromstring(content, parser=parser)
    except etree.ParserError:  # nothing but white space and comments
        return ""
    title = root.findtext(".//title")
    lines = _lines(root)
    return "\n".join([" ".join(title.split()), *lines] if title and title.strip() else lines)


def _lines(root: etree._Element) -> list[str]:
    """What is seen below an element, a block per line; lines of what is set as it was typed stay as they are."""
    parts: list[str] = []
    walk = etree.iterwalk(root, events=("start", "end"))
    for event, element in walk:
        tag = element.tag
        if event == "end":
            parts.append("\n" if tag in _BLOCKS else "")
            parts.append(_folded(element.tail) if element is not root else "")
        elif not isinstance(tag, str) or tag in _UNSEEN or _is_hidden(element):
            walk.skip_subtree()
        elif tag in ("pre", "textarea"):
            walk.skip_subtree()
            parts.append("\n" + _kept("".join(element.itertext()).strip("\n")))
        elif tag == "table" and element is not root and (table := _table(element)):
            walk.skip_subtree()
            parts.append(f"\n{_kept(table)}\n")
        else:
            parts.append(_opening(element))
            parts.append(_folded(element.text))
    lines = (re.sub(" {2,}", " ", line).strip() for line in "".join(parts).split("\n"))
    return [line.translate(_RESTORED) for line in lines if line and line != "-"]


# What stands in for white space that counts, until the rest was folded.
_HELD = {" ": "\ue000", "\n": "\n\ue001"}
_RESTORED = {0xE000: " ", 0xE001: None}


def _kept(text: str) -> str:
    return "".join(_HELD.get(c, c) for c in text)


def _is_hidden(element: etree._Element) -> bool:
    style = "".join(element.get("style", "").lower().split())
    return "hidden" in element.attrib or "display:none" in style or element.get("type") == "hidden"


def _opening(element: etree._Element) -> str:
    """What stands before an element's own text."""
    tag = element.tag
    if tag == "li":
        ordered = element.getparent() is not None and element.getparent().tag == "ol"
        return f"\n{len(list(element.itersiblings('li', preceding=True))) + 1}. " if ordered else "\n- "
    if tag in ("td", "th"):
        return "\t"
    if tag == "input":
        return _filled_in(element)
    if tag == "img" and (words := _folded(element.get("alt")).strip()):
        return f" [{words}] "
    return "\n" if tag in _BLOCKS else ""


def _filled_in(element: etree._Element) -> str:
    """What a field of a form holds."""
    kind = element.get("type", "text").lower()
    if kind in ("checkbox", "radio"):
        return " [x] " if "checked" in element.attrib else " [ ] "
    return f" {element.get('value', '')} " if kind not in ("submit", "button", "reset", "image", "password") else ""


def _table(element: etree._Element) -> str:
    """A table of data as Markdown; empty for one that only arranges a page: tables in tables, or a single row or column."""
    rows = [row for row in element.iter("tr") if row.getparent().tag in ("table", "thead", "tbody", "tfoot")]
    if len(rows) < 2 or element.find(".//table") is not None:
        return ""
    cells: list[tuple[int, int, int, int, str]] = []
    taken: set[tuple[int, int]] = set()
    for y, row in enumerate(rows):
        x = 0
        for cell in row.iterchildren("td", "th"):
            while (y, x) in taken:
                x += 1
            across = _span(cell, "colspan")
            down = min(_span(cell, "rowspan"), len(rows) - y)
            if len(taken) + down * across > _MOST_CELLS:
                return ""
            taken.update((y + j, x + i) for j in range(down) for i in range(across))
            cells.append((y, x, down, across, " ".join(_lines(cell))))
            x += across
    if not cells or max(x + across for _, x, _, across, _ in cells) < 2:
        return ""
    return markdown_table(spread(cells))


def _span(cell: etree._Element, name: str) -> int:
    value = cell.get(name, "1").strip()
    return min(max(int(value), 1), _MOST_SPAN) if value.isdigit() else 1


def _folded(text: str | None) -> str:
    """Line ends and runs of blanks as one blank, as a browser shows them."""
    if not text:
        return ""
    inner = " ".join(text.split())
    return (" " if text[0].isspace() else "") + inner + (" " if inner and text[-1].isspace() else "")
