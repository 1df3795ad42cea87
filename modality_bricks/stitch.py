"""Stitches a vision encoder to a host: from patch features to soft tokens. Knows nothing of pictures, prompts or cards.

Method: the querying transformer of BLIP-2 (Li et al. 2023, arXiv:2301.12597, section 3.1) reads the features; each query
then becomes a mixture of the host's own word embeddings (as in Frozen's reading of pictures as words, Tsimpoukelli et al.
2021, arXiv:2106.13884, but with an explicit softmax over a vocabulary) plus a linear residue that starts at zero. A frozen
host reads soft tokens that are made of its own words almost at once, the more so the purer they are, hence `sharpness`.
In front of them may stand an opening, the same for every picture: learned soft tokens that begin as words of the host
(prompt tuning from words, Lester et al. 2021, arXiv:2104.08691, section 3.2). It tells the host that what follows is seen.
Behind it may stand what the encoder's own classifier calls the thing, as words of the host, where it is sure: of a thousand things it
knows more than a stitch learns of pictures of two hundred (as in Socratic models, Zeng et al. 2022, arXiv:2204.00598).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import mattoni.torchvision_ops  # noqa: F401  (before transformers)

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from mattoni.errors import MattoniError
from modality_bricks.attended import attended

# What hangs on the host: which of its words, and what is added to them. All else reads features, and is the same for every host.
OF_THE_HOST = frozenset({"word_ids", "class_ids", "opening", "residue.weight", "residue.bias"})


@dataclass(frozen=True)
class StitchShape:
    """What is needed to build a stitch before its weights are loaded."""

    tokens: int  # of the encoder
    feature_width: int
    host_width: int
    words: int
    queries: int = 16
    layers: int = 3
    width: int = 256
    heads: int = 4
    opening: int = 0  # soft tokens that are the same for every picture
    sharpness: float = 1.0  # by which the words' logits are multiplied before a soft token is mixed
    classes: int = 0  # things that the encoder's classifier knows by name
    pieces: int = 6  # soft tokens of a thing's name
    sure: float = 0.7  # the classifier's probability from which on the name is told
    sure_of_name: float | None = None  # likewise, where the message asks what a thing is called; None: the same


class QFormerStitch(nn.Module):
    """(batch, tokens, feature_width) encoder features -> (batch, opening + queries, host_width) soft tokens."""

    word_ids: Tensor
    word_vectors: Tensor
    feature_mean: Tensor
    feature_scale: Tensor
    class_weight: Tensor
    class_bias: Tensor
    class_ids: Tensor
    class_vectors: Tensor

    def __init__(self, shape: StitchShape) -> None:
        super().__init__()
        self.shape = shape
        # A stitch that was never given statistics leaves the features as they are.
        self.register_buffer("feature_mean", torch.zeros(shape.tokens, shape.feature_width))
        self.register_buffer("feature_scale", torch.ones(shape.tokens, shape.feature_width))
        self.register_buffer("word_ids", torch.zeros(shape.words, dtype=torch.long))
        # The host's own rows: read from the host at load time, never saved with the brick.
        self.register_buffer("word_vectors", torch.zeros(shape.words, shape.host_width), persistent=False)
        self.places = nn.Parameter(torch.randn(shape.tokens, shape.feature_width) * 0.02)
        self.query_tokens = nn.Parameter(torch.randn(shape.queries, shape.width) * 0.5)
        config = Blip2QFormerConfig(
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            encoder_hidden_size=shape.feature_width,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            use_qformer_text_input=False,
        )
        self.qformer = Blip2QFormerModel(config)
        self.to_words = nn.Linear(shape.width, shape.words)
        self.residue = nn.Linear(shape.width, shape.host_width)
        nn.init.zeros_(self.residue.weight)
        nn.init.zeros_(self.residue.bias)
        if shape.opening:
            self.opening = nn.Parameter(torch.zeros(shape.opening, shape.host_width))
        if shape.classes:
            self.register_buffer("class_weight", torch.zeros(shape.classes, shape.feature_width))
            self.register_buffer("class_bias", torch.zeros(shape.classes))
            # The last row is what stands there where the classifier is not sure.
            self.register_buffer("class_ids", torch.zeros(shape.classes + 1, shape.pieces, dtype=torch.long))
            vectors = torch.zeros(shape.classes + 1, shape.pieces, shape.host_width)
            self.register_buffer("class_vectors", vectors, persistent=False)

    def set_words(self, word_ids: Tensor, host_embedding: Tensor, opening: Sequence[int] = ()) -> None:
        """Choose the words that soft tokens are mixed from, (words,) token ids of the host, and those that open them."""
        self.word_ids.copy_(word_ids)
        self.read_host(host_embedding)
        if opening:
            self.opening.data.copy_(host_embedding.detach()[list(opening)])

    def read_host(self, host_embedding: Tensor) -> None:
        """Take the rows of the chosen words from the host's word embeddings, (vocabulary, host_width)."""
        if host_embedding.shape[1] != self.shape.host_width or int(self.word_ids.max()) >= len(host_embedding):
            raise MattoniError(
                f"The stitch is made for a host of width {self.shape.host_width} and this host has width "
                f"{host_embedding.shape[1]} and {len(host_embedding)} tokens: train a stitch for this host."
            )
        rows = host_embedding.detach()[self.word_ids.to(host_embedding.device)]
        self.word_vectors = rows.to(self.feature_mean.device, self.feature_mean.dtype)
        if self.shape.classes:
            rows = host_embedding.detach()[self.class_ids.to(host_embedding.device)]
            self.class_vectors = rows.to(self.feature_mean.device, self.feature_mean.dtype)

    def sure_classes(self, features: Tensor, wants_name: bool | Tensor = False) -> Tensor:
        """What the encoder's classifier is sure to see: (batch, tokens, feature_width) -> (batch,), -1 where it is not.

        wants_name  whether the message asks what the thing is called, of all or of each (batch,): a guess is then better than
                    nothing, and before a description it misleads
        """
        if not self.shape.classes:
            return torch.full((len(features),), -1, device=features.device)
        pooled = features[:, -1].to(self.class_weight)
        likely, named = (pooled @ self.class_weight.T + self.class_bias).float().softmax(-1).max(-1)
        sure = self.shape.sure
        if self.shape.sure_of_name is None:
            return torch.where(likely >= sure, named, -1)
        asked = torch.as_tensor(wants_name, device=likely.device)
        return torch.where(likely >= torch.where(asked, self.shape.sure_of_name, sure), named, -1)

    def read(self, features: Tensor) -> Tensor:
        """Let the queries read the features: (batch, queries, width)."""
        if features.shape[1:] != self.feature_mean.shape:
            raise MattoniError(
                f"The stitch expects {self.shape.tokens} features of width {self.shape.feature_width} and the encoder gives "
                f"{features.shape[1]} of width {features.shape[2]}: retrain the stitch for this encoder."
            )
        queries, features = self._inputs(features)
        hidden = self.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def attended(self, features: Tensor, question: str = "") -> Tensor:
        """The share of the queries' attention that each feature got: (batch, tokens). The question plays no part."""
        queries, features = self._inputs(features)
        return attended(self.qformer, features, query_embeds=queries)

    def _inputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the Q-Former takes: the queries, and the features of known mean and spread with their places."""
        features = (features.to(self.feature_mean) - self.feature_mean) / self.feature_scale + self.places
        return self.query_tokens.expand(len(features), -1, -1), features

    def word_logits(self, hidden: Tensor) -> Tensor:
        """(batch, queries, width) -> (batch, queries, words)."""
        logits = self.to_words(hidden)
        assert isinstance(logits, Tensor)
        return logits

    def forward(self, features: Tensor, as_words: bool = False, wants_name: bool | Tensor = False) -> Tensor:
        """(batch, tokens, feature_width) -> (batch, opening + pieces + queries, host_width)."""
        hidden = self.read(features)
        return self.soft_tokens(hidden, self.word_logits(hidden), self.sure_classes(features, wants_name), as_words)

    def soft_tokens(self, hidden: Tensor, logits: Tensor, classes: Tensor, as_words: bool = False) -> Tensor:
        """(batch, queries, width) and (batch, queries, words) -> (batch, opening + pieces + queries, host_width).

        classes   (batch,) as `sure_classes` gives them; they have pieces only where the stitch was given names
        as_words  without the residue: mixtures of the host's words and nothing else
        """
        words = (self.shape.sharpness * logits.float()).softmax(-1).to(self.word_vectors.dtype)
        soft: Tensor = words @ self.word_vectors
        if not as_words:
            soft = soft + self.residue(hidden)
        if self.shape.classes:
            soft = torch.cat([self.class_vectors[classes].to(soft.dtype), soft], dim=1)
        if self.shape.opening:
            soft = torch.cat([self.opening.to(soft.dtype).expand(len(soft), -1, -1), soft], dim=1)
        return soft


def with_classes(
    stitch: QFormerStitch, weight: Tensor, bias: Tensor, ids: Tensor, sure: float, sure_of_name: float | None = None
) -> QFormerStitch:
    """A copy of a stitch that also tells what the encoder's classifier is sure of.

    weight, bias  (classes, feature_width) and (classes,), of the pooled feature, which is the last one
    ids           (classes + 1, pieces) token ids of the names, the last row of none
    """
    shape = replace(stitch.shape, classes=len(bias), pieces=ids.shape[1], sure=sure, sure_of_name=sure_of_name)
    named = QFormerStitch(shape)
    named.load_state_dict({**stitch.state_dict(), "class_weight": weight, "class_bias": bias, "class_ids": ids})
    return named


def for_words(
    stitch: QFormerStitch, word_ids: Tensor, class_ids: Tensor | None, opening: Sequence[int], host_embedding: Tensor
) -> QFormerStitch:
    """The same stitch for another host: it says the same words, in that host's tokens, and has no residue yet.

    word_ids        (words,) and
    class_ids       (classes + 1, pieces) of the other host; None where the stitch has no classes
    opening         token ids that the opening begins as
    host_embedding  (vocabulary, width) of the other host
    """
    shape = replace(stitch.shape, host_width=host_embedding.shape[1], opening=len(opening))
    other = QFormerStitch(shape)
    kept = {name: value for name, value in stitch.state_dict().items() if name not in OF_THE_HOST}
    other.load_state_dict({**other.state_dict(), **kept})
    if class_ids is not None:
        other.class_ids.copy_(class_ids)
    other.set_words(word_ids, host_embedding, opening)
    return other


def learn_only(stitch: QFormerStitch, names: Collection[str]) -> None:
    """Have the parameters of these names learn, and nothing else."""
    for name, parameter in stitch.named_parameters():
        parameter.requires_grad_(name in names)
