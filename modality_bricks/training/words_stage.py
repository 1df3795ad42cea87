"""Stage 1 of a stitch: its queries learn words, without the host. Training only."""

import numpy as np
import torch
from torch import Tensor, nn

from brick_training.step import Evaluation
from modality_bricks.stitch import QFormerStitch
from modality_bricks.training.draws import Draws
from modality_bricks.training.features import device_of, half
from modality_bricks.training.spelling import NAME_SLOTS, Spelling, words_loss
from modality_bricks.training.split import Pace, Split


class WordsModel(nn.Module):
    """The stitch up to its words."""

    def __init__(self, stitch: QFormerStitch) -> None:
        super().__init__()
        self.stitch = stitch

    def forward(self, features: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, queries, words)."""
        return self.stitch.word_logits(self.stitch.read(features))


class WordsStage:
    """Stage 1: the queries' words against the words that were said of the picture. No host."""

    best_metric = "score"

    def __init__(
        self,
        stitch: QFormerStitch,
        spelling: Spelling,
        train: Split,
        dev: Split,
        pace: Pace,
    ) -> None:
        self.model: nn.Module = WordsModel(stitch)
        self.stitch, self.spelling, self.train, self.dev = stitch, spelling, train, dev
        self.draws = Draws(train.sources, pace.batch, pace.seed)
        self.steps, self.steps_per_evaluation = pace.steps, pace.steps_per_evaluation

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
