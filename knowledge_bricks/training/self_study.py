"""A host studies a text by itself: it asks about its passages, answers with the passage before it, and says what it finds likely.

Method: self-study (Cartridges, Eyuboglu et al. 2025, arXiv:2506.06266, section 4), with two seeds that a host of 135M can follow:
a question about each sentence, after three examples, and the rest of a sentence that is begun. What is learned later is not the words
but the probabilities that the host gives them while it sees the passage.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from assistant.host.host import Host
from assistant.host.job import Job, answers_of
from assistant.host.local import LocalEngine
from assistant.host.prompt import ASK_TEXT, Turn, build_prompt, opening
from assistant.host.sampling import Sampling
from brick_training.frame import PromptFrame, TokenIds, prompt_frame
from knowledge_bricks.passages import DocumentText, PageText, sentences, split_document
from mattoni.files import write_text
from mattoni.injections import Text
from mattoni.lines import json_rows

LIKELIEST = 20  # next tokens whose probabilities are kept
_ANSWER_TOKENS, _QUESTION_TOKENS = 40, 32
_SHORTEST = 40  # characters of a sentence that is worth a question
_ASK = "Ask one short question that this sentence answers."
_CONTINUE = "Continue this sentence from the text you know: "
_EXAMPLES = (
    ("The lighthouse at Cape Hatteras was moved inland in 1999 because the sea was washing away the beach.",
     "Why was the lighthouse at Cape Hatteras moved?"),
    ("Marta Okafor founded the Lagos Chess School with forty pupils.", "How many pupils did the Lagos Chess School begin with?"),
    ("Most of the valley's water comes from the glaciers of Mount Ansel.", "Where does most of the valley's water come from?"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Lesson:
    """A message, its answer, and what the host found likely at each of the answer's tokens while it saw the passage.

    likeliest, log_probabilities  (answer, LIKELIEST): ids, and natural logarithms
    """

    message: str
    answer: TokenIds
    likeliest: Tensor
    log_probabilities: Tensor

    @property
    def is_question(self) -> bool:
        """Whether it asks, as a person would."""
        return not self.message.startswith(_CONTINUE)


def passages_of(text: str, name: str) -> list[str]:
    """The passages of a text, as documents are cut."""
    return [passage.text for passage in split_document(DocumentText(name, (PageText(1, text),)))]


def study(
    host: Host, passages: Sequence[str], kept: Path, progress: Callable[[int], object] = lambda done: None
) -> list[Lesson]:
    """Lessons on all passages, in order.

    kept      a file that each passage's lessons are added to when they are there: a call that was stopped goes on
    progress  is told how many passages are done
    """
    done = [row.value["lessons"] for row in json_rows(kept, lambda number, why: None)] if kept.exists() else []
    # Without the line that a kill cut off, behind which the next one would be lost too.
    write_text(kept, "".join(map(_line, done)))
    frame = prompt_frame(host)
    engine = LocalEngine(host)
    try:
        for number in range(len(done), len(passages)):
            lessons = _lessons(host, engine, frame, passages[number])
            done.append([_to_json(lesson) for lesson in lessons])
            with kept.open("a", encoding="utf-8") as file:
                file.write(_line(done[-1]))
            progress(number + 1)
    finally:
        engine.close()
    return [_from_json(value) for passage in done for value in passage]


def _line(lessons: list[dict[str, Any]]) -> str:
    return json.dumps({"lessons": lessons}) + "\n"


def _lessons(host: Host, engine: LocalEngine, frame: PromptFrame, passage: str) -> list[Lesson]:
    told = [s for s in sentences(passage) if len(s) >= _SHORTEST]
    prompts = [build_prompt(host.tokenizer, [*opening(host), *_examples(), _asked(s)]) for s in told]
    asked = _said(engine, prompts, _QUESTION_TOKENS)
    questions = list(dict.fromkeys(q for q in map(_question, asked) if q))
    shown = [build_prompt(host.tokenizer, [*opening(host), _with_passage(passage, q)]) for q in questions]
    answers = [frame.answer(answer.strip()) for answer in _said(engine, shown, _ANSWER_TOKENS)]
    begun = [_cut(sentence) for sentence in told]
    pairs = [*zip(questions, answers, strict=True), *((_CONTINUE + a, frame.answer(b)) for a, b in begun)]
    return _taught(host, passage, pairs)


def _examples() -> list[Turn]:
    return [
        turn for sentence, question in _EXAMPLES for turn in (_asked(sentence), Turn("assistant", (Text(question),)))
    ]


def _asked(sentence: str) -> Turn:
    return Turn("user", (Text(f"{sentence}\n\n{_ASK}"),))


def _with_passage(passage: str, message: str) -> Turn:
    """A message with its passage before it, as an attached text stands before a question."""
    return Turn("user", (Text(f"{passage}\n\n"), Text(f"{ASK_TEXT}{message}")))


def _said(engine: LocalEngine, prompts: Sequence[Any], most: int) -> list[str]:
    """Greedy answers, decoded together."""
    return answers_of(engine, [Job(prompt, (), Sampling(max_tokens=most), 0) for prompt in prompts])


def _question(said: str) -> str | None:
    """The question in what was said, if it is one."""
    first = said.strip().split("\n")[0]
    question = first[: first.find("?") + 1]
    return question if len(question) > 10 else None


def _cut(sentence: str) -> tuple[str, str]:
    """The first half of a sentence's words, and the rest."""
    words = sentence.split()
    middle = max(1, len(words) // 2)
    return " ".join(words[:middle]), " ".join(words[middle:])


@torch.no_grad()
def _taught(host: Host, passage: str, pairs: Sequence[tuple[str, TokenIds]]) -> list[Lesson]:
    """What the host finds likely at each token of each answer, with the passage before its message. The passage is read once."""
    prompts = [
        (*build_prompt(host.tokenizer, [*opening(host), _with_passage(passage, message)]).keys, *answer)
        for message, answer in pairs
    ]
    # All but what is read for the logits of an answer.
    most = [len(prompt) - len(answer) - 1 for prompt, (_, answer) in zip(prompts, pairs, strict=True)]
    shared = min([*most, *(_shared(prompts[0], prompt) for prompt in prompts)], default=0)
    cache = DynamicCache()
    lessons = []
    for prompt, (message, answer) in zip(prompts, pairs, strict=True):
        read = cache.get_seq_length()
        ids = torch.tensor([prompt[read:]], device=host.device)
        out: Any = host.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=len(answer) + 1)
        logits: Tensor = out.logits[0, :-1]
        best = logits.float().log_softmax(dim=-1).topk(min(LIKELIEST, logits.shape[-1]))
        lessons.append(Lesson(message, answer, best.indices.cpu(), best.values.cpu()))
        for layer in cache.layers:
            dynamic: Any = layer
            dynamic.crop(shared - len(prompt))
    return lessons


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    """How many of their first places are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _to_json(lesson: Lesson) -> dict[str, Any]:
    return {
        "message": lesson.message,
        "answer": list(lesson.answer),
        "likeliest": lesson.likeliest.tolist(),
        "log_probabilities": [[round(value, 4) for value in row] for row in lesson.log_probabilities.tolist()],
    }


def _from_json(value: dict[str, Any]) -> Lesson:
    return Lesson(
        value["message"],
        tuple(value["answer"]),
        torch.tensor(value["likeliest"]),
        torch.tensor(value["log_probabilities"]),
    )
