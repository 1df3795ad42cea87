"""Trains a stitch in two stages: on words alone, then through the frozen host. Training only; the host is an argument."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from brick_training.frame import PromptFrame
from brick_training.step import Evaluation
from mattoni.errors import MattoniError
from modality_bricks.stitch import QFormerStitch
from modality_bricks.training.draws import Draw, Draws
from modality_bricks.training.features import FeatureCache, device_of, half
from modality_bricks.training.readers import Sample
from modality_bricks.training.reward import RewardedCaptions, self_critical_loss
from modality_bricks.training.samples import SampleSet
from modality_bricks.training.words import content_vocabulary, words_of

# Queries that spell a named thing's pieces in order; the other queries are free.
NAME_SLOTS = 6
CaptionScores = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


@dataclass(frozen=True)
class Split:
    """Sources with their feature caches."""

    sources: Sequence[SampleSet]
    caches: Sequence[FeatureCache]

    def features(self, draws: Sequence[Draw]) -> Tensor:
        """(n, tokens, width), in the order of the draws."""
        out: list[Tensor | None] = [None] * len(draws)
        for source, cache in enumerate(self.caches):
            places = [i for i, d in enumerate(draws) if d.source == source]
            if places:
                found = cache.get([(draws[i].sample, draws[i].view) for i in places])
                for i, features in zip(places, found, strict=True):
                    out[i] = features
        return torch.stack([f for f in out if f is not None])


class Spelling:
    """Words and names as ids of the host's tokens."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sources: Sequence[SampleSet],
        words: int,
        skip: int,
        known: Sequence[int] | None = None,
    ) -> None:
        """Choose the `words` commonest pieces of names and content words, or take the `known` ones of a stitch."""
        self.tokenizer = tokenizer
        texts = [
            a
            for s in sources
            for sample in s.samples
            if sample.name is None and not sample.spells
            for a in {a for _, a in sample.turns}
        ]
        spelled = sorted({sample.spells for s in sources for sample in s.samples if sample.spells})
        names = sorted({sample.name for s in sources for sample in s.samples if sample.name is not None})
        self.stop = tokenizer.encode(".", add_special_tokens=False)[-1]
        ids: Counter[int] = Counter({self.stop: 10**9})
        for name in names:
            ids.update({i: 10**8 for i in self.pieces(name)})
        for sentence in spelled:
            ids.update({i: 10**8 for i in self.pieces(sentence)})
        vocabulary = content_vocabulary(texts, commonest=skip, least=min(5, max(1, len(texts) // 2000)))
        self.content = set(vocabulary)
        for rank, word in enumerate(vocabulary):
            ids.update({i: len(vocabulary) - rank for i in self.pieces(word)})
        self.ids = [i for i, _ in ids.most_common(words)] if known is None else list(known)
        self.index = {token: place for place, token in enumerate(self.ids)}

    @lru_cache(maxsize=100_000)  # noqa: B019  (one object per run)
    def pieces(self, word: str) -> tuple[int, ...]:
        """Token ids of a word inside a sentence."""
        return tuple(self.tokenizer.encode(f" {word}", add_special_tokens=False))

    @lru_cache(maxsize=200_000)  # noqa: B019
    def target(self, texts: tuple[str, ...]) -> dict[int, float]:
        """A distribution over vocabulary places: the content words of these texts."""
        counts: Counter[int] = Counter()
        for text in texts:
            for word in words_of(text):
                if word in self.content:
                    counts.update(self.index[i] for i in self.pieces(word) if i in self.index)
        total = sum(counts.values())
        return {place: n / total for place, n in counts.items()}

    def name_target(self, name: str) -> list[int]:
        """Vocabulary places of a name's pieces in order, filled up with full stops to NAME_SLOTS."""
        places = [self.index[i] for i in self.pieces(name) if i in self.index]
        return (places + [self.index[self.stop]] * NAME_SLOTS)[:NAME_SLOTS]

    def spelled_target(self, sentence: str, queries: int) -> list[int]:
        """Vocabulary places of a sentence's pieces in order, filled up with full stops to all queries."""
        places = [self.index[i] for i in self.pieces(sentence) if i in self.index]
        return (places + [self.index[self.stop]] * queries)[:queries]

    def said_of(self, sample: Sample) -> dict[int, float]:
        """A distribution over vocabulary places: the pieces of the name, or the content words of all answers."""
        if sample.name is not None:
            places = [self.index[i] for i in self.pieces(sample.name) if i in self.index]
            return {place: places.count(place) / len(places) for place in places}
        return self.target(tuple(sorted({a for _, a in sample.turns})))


def words_loss(spelling: Spelling, logits: Tensor, samples: Sequence[Sample]) -> Tensor:
    """What the queries should say, as words, of these pictures: (batch, queries, words) logits -> mean over samples.

    Two losses: the mean of the queries' softmaxes against the content words of all answers; and, for named pictures, the
    first queries against the name's pieces in order. Of a picture with a sentence to spell, all queries against its pieces.
    """
    pooled = (logits.log_softmax(-1).logsumexp(1) - np.log(logits.shape[1])).clamp(min=-30)
    target = torch.zeros_like(pooled)
    slots = torch.full(logits.shape[:2], -100, device=logits.device)
    for row, sample in enumerate(samples):
        if sample.spells:
            slots[row] = torch.tensor(spelling.spelled_target(sample.spells, logits.shape[1]))
            continue
        for place, share in spelling.said_of(sample).items():
            target[row, place] = share
        if sample.name is not None:
            slots[row, :NAME_SLOTS] = torch.tensor(spelling.name_target(sample.name))
    loss = -(target * pooled).sum() / len(samples)
    ordered = F.cross_entropy(logits.transpose(1, 2), slots, ignore_index=-100, reduction="none")
    total: Tensor = loss + (ordered.sum(1) / (slots >= 0).sum(1).clamp(min=1)).mean()
    return total


class WordsStage:
    """Stage 1: the queries' words against the words that were said of the picture. No host."""

    best_metric = "score"

    def __init__(
        self,
        stitch: QFormerStitch,
        spelling: Spelling,
        train: Split,
        dev: Split,
        batch: int,
        steps: int,
        every: int,
        seed: int,
    ) -> None:
        self.model: nn.Module = WordsModel(stitch)
        self.stitch, self.spelling, self.train, self.dev = stitch, spelling, train, dev
        self.draws = Draws(train.sources, batch, seed)
        self.steps, self.steps_per_evaluation = steps, every

    def rows(self, step: int) -> list[int]:
        return self.draws.batch_numbers(step)

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        draws = [self.draws.draw(n) for n in rows]
        samples = [self.train.sources[d.source].samples[d.sample] for d in draws]
        with half(device := device_of(model)):
            logits = model(self.train.features(draws).to(device))
        return words_loss(self.spelling, logits.float(), samples)

    @torch.inference_mode()
    def evaluate(self, step: int) -> Evaluation:
        """`named`: the likeliest of all names is right; `hit`: the likeliest free word was said of the picture.

        `spelled`: all words of the sentence are right.
        """
        self.model.eval()
        device = device_of(self.model)
        names = sorted({s.name for src in self.train.sources for s in src.samples if s.name is not None})
        spelled = torch.tensor([self.spelling.name_target(n) for n in names], device=device)
        right: list[bool] = []
        hits: list[bool] = []
        spelled_right: list[bool] = []
        lines: list[str] = []
        for source, cache in zip(self.dev.sources, self.dev.caches, strict=True):
            for start in range(0, len(source.samples), 128):
                samples = source.samples[start : start + 128]
                features = cache.get([(start + i, 0) for i in range(len(samples))])
                logits = self.model(features.to(device)).float().log_softmax(-1)
                pooled = logits.logsumexp(1)
                pooled[:, self.spelling.index[self.spelling.stop]] = -torch.inf
                for row, sample in enumerate(samples):
                    if sample.spells:
                        wanted = self.spelling.spelled_target(sample.spells, logits.shape[1])
                        spelled_right.append(logits[row].argmax(-1).tolist() == wanted)
                        continue
                    hits.append(int(pooled[row].argmax()) in self.spelling.said_of(sample))
                    if sample.name is not None:
                        scores = logits[row, :NAME_SLOTS].gather(1, spelled.T).sum(0)
                        right.append(names[int(scores.argmax())] == sample.name)
                if start == 0:
                    for row in range(min(3, len(samples))):
                        words = logits[row].argmax(-1) if samples[row].spells else pooled[row].topk(5).indices
                        best = [self.spelling.ids[int(i)] for i in words]
                        said = samples[row].spells or samples[row].name or samples[row].turns[0][1]
                        lines.append(f"{said} -> {self.spelling.tokenizer.decode(best)}")
        metrics = {"hit": float(np.mean(hits))} if hits else {}
        if spelled_right:
            metrics["spelled"] = float(np.mean(spelled_right))
        if right:
            metrics["named"] = float(np.mean(right))
        return Evaluation({"score": sum(metrics.values()), **metrics}, lines)


class SpeakingModel(nn.Module):
    """The stitch, with its words beside the soft tokens."""

    def __init__(self, stitch: QFormerStitch) -> None:
        super().__init__()
        self.stitch = stitch

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens, width) -> (batch, opening + queries, host width) and (batch, queries, words)."""
        hidden = self.stitch.read(features)
        logits = self.stitch.word_logits(hidden)
        return self.stitch.soft_tokens(hidden, logits), logits


class WordsModel(nn.Module):
    """The stitch up to its words."""

    def __init__(self, stitch: QFormerStitch) -> None:
        super().__init__()
        self.stitch = stitch

    def forward(self, features: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, queries, words)."""
        return self.stitch.word_logits(self.stitch.read(features))


class GenerateStage:
    """Stage 2: the frozen host's loss on the answer, behind the soft tokens and the question.

    A `blind` run shows another picture than the one that is answered about: what can be answered without looking.
    With `words_weight` the loss of stage 1 goes on beside it: without it, naming was forgotten while speaking was learned.
    The prompt up to the soft tokens never changes: its keys and values are computed once and shared by all samples.
    With `rewarded` captions are not imitated: the host says several of each picture, and those that score more than the
    others become likelier.
    """

    best_metric = "score"

    def __init__(
        self,
        stitch: QFormerStitch,
        host: PreTrainedModel,
        frame: PromptFrame,
        train: Split,
        dev: Split,
        batch: int,
        steps: int,
        every: int,
        seed: int,
        score_captions: CaptionScores,
        new_tokens: int,
        spelling: Spelling,
        words_weight: float,
        blind: bool = False,
        rewarded: RewardedCaptions | None = None,
    ) -> None:
        self.model: nn.Module = SpeakingModel(stitch)
        self.rewarded, self.seed = rewarded, seed
        self.spelling, self.words_weight = spelling, words_weight
        self.stitch, self.host, self.train, self.dev = stitch, host, train, dev
        self.frame = frame
        self.draws = Draws(train.sources, batch, seed)
        self.blind = blind
        self.steps, self.steps_per_evaluation = steps, every
        self.score_captions, self.new_tokens = score_captions, new_tokens
        with torch.no_grad():
            before = torch.tensor([frame.before], device=host.device)
            cache = host(before, use_cache=True).past_key_values
        self._prefix = [(layer.keys, layer.values) for layer in cache.layers]

    def rows(self, step: int) -> list[int]:
        return self.draws.batch_numbers(
            step, lambda d: len(self.frame.question(d.question)) + len(self.frame.answer(d.answer))
        )

    def prefix(self, batch: int) -> DynamicCache:
        """A cache that begins with the constant part of the prompt, for `batch` rows."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._prefix):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), layer)
        return cache

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        draws = [self.draws.draw(n) for n in rows]
        shown = [self.draws.another_picture(n) for n in rows] if self.blind else draws
        with half(self.host.device):
            soft, logits = model(self.train.features(shown).to(self.host.device))
        spoken = [i for i, d in enumerate(draws) if self.rewarded and self.rewarded.has(d)]
        imitated = [i for i in range(len(draws)) if i not in spoken]
        loss: Tensor = soft.new_zeros(())
        if imitated:
            questions = [self.frame.question(draws[i].question) for i in imitated]
            answers = [self.frame.answer(draws[i].answer) for i in imitated]
            mean = answer_loss(self.host, self.prefix(len(imitated)), soft[imitated], questions, answers)
            loss = loss + mean * len(imitated) / len(draws)
        if spoken:
            mean = self._reward_loss([draws[i] for i in spoken], soft[spoken], rows[0])
            loss = loss + mean * len(spoken) / len(draws)
        if self.words_weight:
            samples = [self.train.sources[d.source].samples[d.sample] for d in draws]
            loss = loss + self.words_weight * words_loss(self.spelling, logits.float(), samples)
        return loss

    def _reward_loss(self, draws: Sequence[Draw], soft: Tensor, number: int) -> Tensor:
        """The self-critical loss of captions that the host says of these pictures, all asked as the first one is."""
        rewarded = self.rewarded
        assert rewarded is not None

        def reward(row: int, ids: Sequence[int], ended: bool) -> float:
            return rewarded.reward(draws[row], self.frame.text(ids), ended)

        generator = torch.Generator().manual_seed(int(np.random.default_rng((self.seed, 5, number)).integers(2**63)))
        question = self.frame.question(draws[0].question)
        loss = self_critical_loss(
            self.host, self.prefix(len(draws)), soft, question, reward, rewarded.plan, self.frame.end, generator
        )
        return loss * rewarded.plan.weight

    @torch.inference_mode()
    def evaluate(self, step: int) -> Evaluation:
        """Greedy answers to "What is in the picture?" (named) and "Describe the picture." (captions) on the dev pictures.

        Pictures with a sentence to spell are asked their own questions (answered).

        Beside each figure stands the one with shuffled pictures, and how many different answers there are per picture.
        """
        self.model.eval()
        metrics: dict[str, float] = {}
        lines: list[str] = []
        rows: list[Sequence[float]] = []
        for source, cache in zip(self.dev.sources, self.dev.caches, strict=True):
            if source.samples[0].spells:
                right, others, found = self._asked(source, cache)
                rows.append(right)
                metrics |= {"answered": float(np.mean(right)), "answered shuffled": float(np.mean(others))}
                metrics |= {"answered distinct": len(set(found)) / len(found), "answered n": len(found)}
                lines += [f"{s.spells} -> {a}" for s, a in zip(source.samples[:5], found, strict=False)]
                continue
            named = source.samples[0].name is not None
            question = "What is in the picture?" if named else source.samples[0].turns[0][0]
            answers: list[str] = []
            for start in range(0, len(source.samples), 50):
                stop = min(start + 50, len(source.samples))
                answers += self.answer(cache.get([(i, 0) for i in range(start, stop)]), question)
            kind = "named" if named else "captions"
            shuffled = answers_of_others(answers)
            rows.append(self._scores(source.samples, answers))
            value, beside = (float(np.mean(r)) for r in (rows[-1], self._scores(source.samples, shuffled)))
            metrics |= {kind: value, f"{kind} shuffled": beside, f"{kind} distinct": len(set(answers)) / len(answers)}
            metrics[f"{kind} n"] = len(answers)
            lines += [f"{s.name or s.turns[0][1]} -> {a}" for s, a in zip(source.samples[:5], answers, strict=False)]
        return Evaluation({"score": sum(float(np.mean(r)) for r in rows), **metrics}, lines, rows)

    def _asked(self, source: SampleSet, cache: FeatureCache) -> tuple[list[float], list[float], list[str]]:
        """One of its own questions about each picture: whether the answer is the row's, also with another picture's tokens."""
        right, others, found = [], [], []
        for i, sample in enumerate(source.samples):
            question, wanted = sample.turns[i % len(sample.turns)]
            mine, other = (cache.get([(k, 0)]) for k in (i, (i + len(source.samples) // 2) % len(source.samples)))
            answer, beside = (self.answer(features, question)[0] for features in (mine, other))
            right.append(float(answer.lower() == wanted.lower()))
            others.append(float(beside.lower() == wanted.lower()))
            found.append(answer)
        return right, others, found

    def _scores(self, samples: Sequence[Sample], answers: Sequence[str]) -> Sequence[float]:
        if samples[0].name is not None:
            return [float(names_it(a, s.synonyms)) for s, a in zip(samples, answers, strict=True)]
        return self.score_captions(answers, [sorted({a for _, a in s.turns}) for s in samples])

    @torch.inference_mode()
    def answer(self, features: Tensor, question: str) -> list[str]:
        """Greedy answers of the host to one question about several pictures, as one batch."""
        with half(self.host.device):
            soft = self.stitch(features.to(self.host.device))
        asked = torch.tensor(self.frame.question(question), device=soft.device).expand(len(features), -1)
        embed = self.host.get_input_embeddings()
        inputs = torch.cat([soft.to(embed.weight.dtype), embed(asked)], dim=1)
        cache = self.prefix(len(features))
        said: list[Tensor] = []
        for _ in range(self.new_tokens):
            logits = self.host(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            said.append(logits[:, -1].argmax(-1))
            inputs = embed(said[-1]).unsqueeze(1)
        texts = []
        for row in torch.stack(said, dim=1).tolist():
            end = row.index(self.frame.end) if self.frame.end in row else len(row)
            texts.append(self.frame.text(row[:end]).strip())
        return texts


def answers_of_others(answers: Sequence[str]) -> list[str]:
    """For each picture the answer to another one, drawn at random: neighbours in a folder show the same thing."""
    order = np.random.default_rng(0).permutation(len(answers))
    shuffled = list(answers)
    for mine, other in zip(order, np.roll(order, 1), strict=True):
        shuffled[mine] = answers[other]
    return shuffled


def names_it(answer: str, synonyms: Sequence[str], first: int = 12) -> bool:
    """Whether one of the synonyms stands in the first words of the answer, as whole words, in any case."""
    said = " ".join(words_of(" ".join(answer.split()[:first])))
    return any(f" {' '.join(words_of(s))} " in f" {said} " for s in synonyms)


def answer_loss(
    host: PreTrainedModel,
    cache: DynamicCache,
    soft: Tensor,
    questions: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> Tensor:
    """Mean over samples of the mean cross-entropy of each answer's tokens.

    cache      keys and values of what stands before the soft tokens
    soft       (batch, queries, width)
    questions  ids between the soft tokens and the answer, one list per sample
    answers    ids of the answers with their end, one list per sample

    Raises MattoniError when an answer is empty, as then nothing would be learned from it.
    """
    if any(not answer for answer in answers):
        raise MattoniError(
            "A sample has an empty answer, so its label mask is empty: remove such samples from the data."
        )
    queries = soft.shape[1]
    longest = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True))
    ids = torch.zeros(len(soft), longest, dtype=torch.long)
    rows: list[int] = []
    places: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        ids[row, : len(question) + len(answer)] = torch.tensor([*question, *answer])
        first = queries + len(question) - 1  # the position that predicts the answer's first token
        rows += [row] * len(answer)
        places += range(first, first + len(answer))
        labels += answer
        weights += [1 / len(answer)] * len(answer)
    embed = host.get_input_embeddings()
    asked: Tensor = embed(ids.to(soft.device))
    inputs = torch.cat([soft.to(asked.dtype), asked], dim=1)
    # Padding stands to the right of everything that counts, so causal attention never sees it.
    hidden = host.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
    head = host.get_output_embeddings()
    assert head is not None
    logits = head(hidden[rows, places]).float()
    losses = F.cross_entropy(logits, torch.tensor(labels, device=soft.device), reduction="none")
    return (losses * torch.tensor(weights, device=soft.device)).sum() / len(soft)
