"""Encodes text that anybody may have written, so that it can never open or close a role or stand for a picture.

Escaping alone is not enough (transformers #47386, #48052; vLLM #57740): pieces are encoded apart, and token ids are joined.
"""

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase


@lru_cache(maxsize=8)
def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Matches every added token's text (role markers, picture placeholders, tool marks, special or not)."""
    literals = sorted({str(token) for token in tokenizer.get_added_vocab()}, key=len, reverse=True)
    return re.compile("|".join(re.escape(literal) for literal in literals if literal)) if literals else None


def cut(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """`text` in pieces, cut after the first character of whatever looks like an added token."""
    pattern = _added_tokens(tokenizer)
    pieces, start = [], 0
    for match in pattern.finditer(text) if pattern else ():
        cut = match.start() + 1
        pieces.append(text[start:cut])
        start = cut
    return [*pieces, text[start:]]


def encode_untrusted(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of `text` in which no added token occurs, whatever it says: each look-alike is cut after its first
    character and the halves are encoded apart."""
    ids = [i for piece in cut(tokenizer, text) if piece for i in tokenizer.encode(piece, add_special_tokens=False)]
    forbidden = set(tokenizer.get_added_vocab().values())
    # A one-character added token cannot be cut; nothing a message could need is lost with it.
    return tuple(i for i in ids if i not in forbidden)
