"""Makes other people's text safe to show. Knows nothing of the page.

Streamlit never runs HTML that comes as Markdown, but its Markdown does more than a chat needs: `$5 and $6` becomes a
formula, `:red[x]` a colour, and `![x](address)` makes the browser fetch a picture from an address that a model or a
document chose. What a user typed is shown with `st.text`, which reads no Markdown at all.
"""

import re

# Fenced code (also one that is still being written) and code spans are left as they are.
_CODE = re.compile(r"(^```.*?(?:^```[^\S\n]*$|\Z)|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])")


def answer(text: str) -> str:
    """An answer as Markdown that draws text, lists, tables and code, and nothing else."""
    return "".join(part if index % 2 else _defused(part) for index, part in enumerate(_CODE.split(text)))


def _defused(text: str) -> str:
    # A line that begins with a tag would be shown raw, with its escapes: the tag is text as well.
    text = text.replace("<", "\\<").replace("$", "\\$").replace("![", "!\\[")
    text = re.sub(r":(?=[a-z]+(?:-[a-z]+)*\[)|:(?=material/)", r"\\:", text)
    # A line break of the answer stays one.
    return re.sub(r"(?<!\n)(?<!  )\n(?!\n)", "  \n", text)


def plain(text: str, length: int = 80) -> str:
    """A name or title for a place that reads Markdown (a button, a chip): every mark escaped, at most `length` long."""
    text = " ".join(text.split())
    short = text if len(text) <= length else text[: length - 1] + "…"
    return _PUNCTUATION.sub(r"\\\1", short)
