"""Which tokens may come next in an answer that has the form of a JSON schema, and how tokens are spelled in bytes.

llguidance (Microsoft, MIT; https://github.com/guidance-ai/llguidance) walks an Earley parser along the answer. It was taken
before xgrammar (Apache-2.0), which does the same and brings triton and apache-tvm-ffi along. Of the builtin host's 49,152
tokens a mask takes about 0.02 ms, the first of a schema about 20: that one is made on the caller's thread, before the answer
joins the others. Nothing here is fetched: a `$ref` elsewhere is an error.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import llguidance
import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from assistant.host.host import Host
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# Larger ones take seconds to be read.
_MOST_CHARACTERS = 100_000
# A small host that may choose its own white space seldom stops writing it.
_COMPACT: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def check_schema(schema: str) -> None:
    """Raise MattoniError for a JSON schema (as JSON) that is wrong, too large, or has what cannot be kept to."""
    if problem := LLMatcher.validate_grammar(_grammar(schema)):
        raise _refused(problem)


class Grammar:
    """The form of one answer, as far as it has come. Made on the caller's thread; then the engine's alone."""

    def __init__(self, host: Host, schema: str) -> None:
        """Raises MattoniError as `check_schema` does, and for a host whose tokenizer is none of the usual ones."""
        self._matcher = LLMatcher(
            _vocabulary(host.tokenizer, tuple(sorted(host.stop_ids))), _grammar(schema), log_level=0
        )
        self._check()
        self._matcher.compute_bitmask()  # the slow first one

    def allowed(self, logits: Tensor) -> Tensor:
        """Logits (vocabulary,) with minus infinity wherever a token may not come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        may = torch.zeros(logits.shape[0], dtype=torch.bool)
        known = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: logits.shape[0]].astype(bool))
        may[: len(known)] = known
        return logits.masked_fill(~may.to(logits.device), -torch.inf)

    def take(self, token: int) -> bool:
        """Note what came; True where nothing can follow but the end."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())


def spell(host: Host, token: int) -> bytes:
    """A token's bytes, which may be a part of a character. Raises MattoniError where the tokenizer does not tell."""
    return bytes(_vocabulary(host.tokenizer, tuple(sorted(host.stop_ids))).decode_bytes([token]))


def _grammar(schema: str) -> str:
    if len(schema) > _MOST_CHARACTERS:
        raise MattoniError(f"The JSON schema is longer than {_MOST_CHARACTERS:,} characters: make it shorter.")
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=_COMPACT)
    except ValueError as problem:
        raise _refused(str(problem)) from problem


def _refused(problem: str) -> MattoniError:
    said = " ".join(problem.split())[:200].rstrip(".")
    return MattoniError(f"The JSON schema cannot be kept to ({said}): correct it, or make it simpler.")


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: PreTrainedTokenizerBase, ends: Iterable[int]) -> llguidance.LLTokenizer:
    """The tokenizer as llguidance reads it: a second or two for 49,152 tokens."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise MattoniError(
            "This host's tokenizer does not tell its tokens' bytes: ask without JSON and log probabilities."
        )
    return llguidance.hf.from_tokenizer(tokenizer, eos_token=list(ends))
