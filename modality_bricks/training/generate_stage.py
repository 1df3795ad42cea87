"""Stage 2 of a stitch: through the frozen host. Training only; the host is an argument."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from brick_training.step import Evaluation
from modality_bricks.stitch import QFormerStitch
from modality_bricks.training.dev_answers import DevAnswers
from modality_bricks.training.draws import Draw, Draws
from modality_bricks.training.features import half
from modality_bricks.training.readers import NAME_QUESTIONS, answer_for, wants_name
from modality_bricks.training.reward import RewardedCaptions, picture_loss
from modality_bricks.training.speaker import Speaker
from modality_bricks.training.spelling import Spelling, words_loss
from modality_bricks.training.split import Pace, Split


class SpeakingModel(nn.Module):
    """The stitch, with its words beside the soft tokens."""

    def __init__(self, stitch: QFormerStitch) -> None:
        super().__init__()
        self.stitch = stitch

    def forward(self, features: Tensor, wants_name: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens, width) and (batch,) -> (batch, opening + pieces + queries, host width) and (batch, queries, words)."""
        hidden = self.stitch.read(features)
        logits = self.stitch.word_logits(hidden)
        return self.stitch.soft_tokens(hidden, logits, self.stitch.sure_classes(features, wants_name)), logits


@dataclass(frozen=True)
class Taught:
    """Questions about captioned pictures that the encoder's classifier answers (distillation, Hinton et al. 2015, arXiv:1503.02531).

    Few pictures have a name, and none a sharp one of a single thing: of these the classifier's word is what can be had.
    """

    names: tuple[str, ...]
    share: float  # of the captioned pictures of which the classifier is sure

    def answer(self, draw: Draw, named: int, guessed: int, chance: np.random.Generator) -> Draw:
        """The draw, or the same picture asked for its thing.

        named    the class that is told before any question, or -1
        guessed  the class that is told where a name is asked for, or -1: who asks for one gets it, for with a caption as the answer the
                 host would learn to pass over what it is told
        """
        if guessed >= 0 and wants_name(draw.question):
            return replace(draw, answer=answer_for(self.names[guessed]))
        if named < 0 or chance.random() >= self.share:
            return draw
        question = NAME_QUESTIONS[int(chance.integers(len(NAME_QUESTIONS)))]
        return replace(draw, question=question, answer=answer_for(self.names[named]))


class GenerateStage:
    """The frozen host's loss on the answer, behind the soft tokens and the question.

    A `blind` run shows another picture than the one that is answered about: what can be answered without looking.
    With `words_weight` the loss of stage 1 goes on beside it: without it, naming was forgotten while speaking was learned.
    With `rewarded` captions are not imitated: the host says several of each picture, and those that score more than the
    others become likelier.
    """

    best_metric = "score"

    def __init__(
        self,
        stitch: QFormerStitch,
        speaker: Speaker,
        train: Split,
        dev: Split,
        pace: Pace,
        dev_answers: DevAnswers,
        spelling: Spelling,
        words_weight: float = 0.0,
        blind: bool = False,
        rewarded: RewardedCaptions | None = None,
        taught: Taught | None = None,
    ) -> None:
        self.model: nn.Module = SpeakingModel(stitch)
        self.stitch, self.speaker, self.train, self.dev = stitch, speaker, train, dev
        self.dev_answers, self.rewarded, self.taught, self.seed = dev_answers, rewarded, taught, pace.seed
        self.spelling, self.words_weight, self.blind = spelling, words_weight, blind
        self.draws = Draws(train.sources, pace.batch, pace.seed)
        self.steps, self.steps_per_evaluation = pace.steps, pace.steps_per_evaluation

    def rows(self, step: int) -> list[int]:
        frame = self.speaker.frame
        return self.draws.batch_numbers(step, lambda d: len(frame.question(d.question)) + len(frame.answer(d.answer)))

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        draws = [self.draws.draw(n) for n in rows]
        shown = [self.draws.another_picture(n) for n in rows] if self.blind else draws
        features = self.train.features(shown).to(self.speaker.host.device)
        drawn = draws
        if self.taught is not None:
            draws = self._taught(self.taught, rows, draws, features)
        with half(self.speaker.host.device):
            soft, logits = model(features, torch.tensor([wants_name(d.question) for d in draws]))
        # What the classifier answers is imitated, however it is asked for.
        spoken = [i for i, d in enumerate(draws) if self.rewarded and d is drawn[i] and self.rewarded.has(d)]
        imitated = [i for i in range(len(draws)) if i not in spoken]
        loss: Tensor = soft.new_zeros(())
        if imitated:
            questions, answers = ([getattr(draws[i], part) for i in imitated] for part in ("question", "answer"))
            mean = self.speaker.loss(soft[imitated], questions, answers)
            loss = loss + mean * len(imitated) / len(draws)
        if spoken:
            mean = self._reward_loss([draws[i] for i in spoken], soft[spoken], rows[0])
            loss = loss + mean * len(spoken) / len(draws)
        if self.words_weight:
            samples = [self.train.sources[d.source].samples[d.sample] for d in draws]
            loss = loss + self.words_weight * words_loss(self.spelling, logits.float(), samples)
        return loss

    def _taught(self, taught: Taught, rows: list[int], draws: list[Draw], features: Tensor) -> list[Draw]:
        """The draws, of which some captioned pictures are asked for what the classifier sees in them."""
        named, guessed = (self.stitch.sure_classes(features, asked).tolist() for asked in (False, True))
        return [
            draw
            if self.train.sources[draw.source].samples[draw.sample].name is not None
            else taught.answer(draw, sure, guess, np.random.default_rng((self.seed, 6, number)))
            for number, draw, sure, guess in zip(rows, draws, named, guessed, strict=True)
        ]

    def _reward_loss(self, draws: Sequence[Draw], soft: Tensor, number: int) -> Tensor:
        """The self-critical loss of captions that the host says of these pictures, all asked as the first one is."""
        rewarded, frame = self.rewarded, self.speaker.frame
        assert rewarded is not None

        def reward(row: int, ids: Sequence[int], ended: bool) -> float:
            return rewarded.reward(draws[row], frame.text(ids), ended)

        generator = torch.Generator().manual_seed(int(np.random.default_rng((self.seed, 5, number)).integers(2**63)))
        question = frame.question(draws[0].question)
        loss = picture_loss(
            self.speaker.host,
            self.speaker.prefix(len(draws)),
            soft,
            question,
            reward,
            rewarded.plan,
            frame.end,
            generator,
        )
        return loss * rewarded.plan.weight

    def evaluate(self, step: int) -> Evaluation:
        self.model.eval()
        return self.dev_answers.measure(self.stitch, self.dev)
