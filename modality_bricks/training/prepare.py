"""Builds the stages of a modality brick from a recipe: data, model, steps. Training only; what belongs to a host is an argument."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401  (before open_clip and transformers)

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from brick_training.frame import PromptFrame
from brick_training.reward import CaptionMetric
from mattoni.errors import MattoniError
from mattoni.files import replacing
from modality_bricks.encoder import WEIGHTS, Classes, encoder_folder, load_classes, load_encoder
from modality_bricks.stitch import OF_THE_HOST, QFormerStitch, StitchShape, for_words, learn_only, with_classes
from modality_bricks.stitch_file import FILE as STITCH
from modality_bricks.stitch_file import load_stitch, read_stitch
from modality_bricks.training.columns_stage import ColumnsStage, LabelledPictures, read_labelled
from modality_bricks.training.data_checks import BadRows, Say, refuse_without_choice, warnings_of, without_unreadable
from modality_bricks.training.dev_answers import CaptionScores, DevAnswers
from modality_bricks.training.draws import Draws
from modality_bricks.training.encoder_stage import EncoderData, EncoderStage, Phase, model_config
from modality_bricks.training.features import FeatureCache
from modality_bricks.training.generate_stage import GenerateStage, Taught
from modality_bricks.training.packs import Labels, Pixels, captioned_pictures, crops_as_tiles, sheet_tiles
from modality_bricks.training.readers import Report, is_sound, passing, read_folder
from modality_bricks.training.recipe import ColumnsRecipe, EncoderRecipe, GenerateRecipe, TuneRecipe, WordsRecipe
from modality_bricks.training.reward import RewardedCaptions
from modality_bricks.training.samples import SampleSet, read_source
from modality_bricks.training.speaker import Speaker
from modality_bricks.training.spelling import Spelling
from modality_bricks.training.split import Pace, Split
from modality_bricks.training.teacher import load_teacher, teacher_features
from modality_bricks.training.tune_stage import TuneData, TunedModel, TuneStage, classes_of
from modality_bricks.training.words_stage import WordsStage

CROPS_PER_PICTURE, CROP_SIZE = 3, 96
_LOOKING = (
    ".crossattention.attention.key",
    ".crossattention.attention.value",
)  # parts of a stitch that read its encoder
STATISTICS = 512  # pictures of each source that a new stitch learns the features' mean and spread from
Find = Callable[[str], Path]
Labelled = tuple[LabelledPictures, dict[str, list[str]]]


@dataclass(frozen=True)
class Reading:
    """How data are read: where a config's paths lead, what becomes of bad rows, and who hears of it."""

    find: Find
    skip_bad_rows: bool = False
    say: Say = print
    trial: bool = False  # of a dry run: nothing is looked up or left in a cache, and slow things are guessed


def encoder_data(recipe: EncoderRecipe, reading: Reading, cache: Path) -> EncoderData:
    """Read the packs, check them and, if there is a teacher, compute its features once."""
    files, find, bad = recipe.data, reading.find, BadRows()
    if files.folder is not None:
        tiles, labels, names = folder_tiles(find(files.folder), recipe.size, bad.report)
        dev_tiles, dev_labels, dev_names = tiles, labels, names
        if files.dev_folder is None:
            reading.say("data: there is no dev_folder, so the dev figure is measured on training pictures.")
        else:
            dev_tiles, dev_labels, dev_names = folder_tiles(find(files.dev_folder), recipe.size, bad.report)
        if names != dev_names:
            only = ", ".join(sorted(set(names) ^ set(dev_names)))
            raise MattoniError(
                f"data: folder and dev_folder must hold the same sub-folders; only one of them has {only}."
            )
    else:
        tiles, labels = sheet_tiles([find(name) for name in files.tiles], bad.report)
        dev_tiles, dev_labels = sheet_tiles([find(name) for name in files.dev_tiles], bad.report)
    rows = [row for name in files.captioned for row in captioned_pictures(find(name), bad.report)]
    bad.settle(reading.skip_bad_rows, reading.say)
    check_classes(labels, dev_labels, bool(rows))
    crops = crops_as_tiles([picture for _, picture, _ in rows], CROPS_PER_PICTURE, CROP_SIZE, recipe.seed)
    teacher = None
    if files.teacher is not None:
        small = crops_as_tiles([picture for _, picture, _ in rows], CROPS_PER_PICTURE, tiles.shape[1], recipe.seed)
        parts = [tiles, small.reshape(-1, *small.shape[2:])]
        kept = cache / "teacher.npy"
        teacher = (
            guessed_teacher_features(find(files.teacher), parts, reading.say)
            if reading.trial and not kept.exists()
            else kept_teacher_features(find(files.teacher), parts, kept)
        )
    return EncoderData(tiles, labels, crops, [captions for _, _, captions in rows], teacher, dev_tiles, dev_labels)


def check_classes(labels: Labels, dev_labels: Labels, captions: bool) -> None:
    """Raise MattoniError where classes cannot be learned or measured: no rows, one class, or one that only dev has."""
    if not len(labels) or not len(dev_labels):
        raise MattoniError("data: 0 pictures are left to learn from or to measure on: give more, or correct them.")
    if len(np.unique(labels)) == 1 and not captions:
        raise MattoniError("data: every picture is of one class, so there is nothing to tell apart: add other things.")
    unknown = np.setdiff1d(dev_labels, labels)
    if len(unknown):
        raise MattoniError(f"data: dev has the label {unknown[0]}, which is not among those of training: correct it.")


def kept_teacher_features(teacher: Path, parts: Sequence[Pixels], path: Path) -> NDArray[np.float16]:
    """The teacher's features of these pictures, from `path` or computed and left there."""
    if not path.exists():
        model = load_teacher(teacher)
        features = np.concatenate([teacher_features(model, part) for part in parts if len(part)])
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, features)
    loaded: NDArray[np.float16] = np.load(path)
    return loaded


def guessed_teacher_features(teacher: Path, parts: Sequence[Pixels], say: Say) -> NDArray[np.float16]:
    """For a trial: the features of a few pictures over and over, and how long all of them would take."""
    few, rows = parts[0][:128], sum(len(part) for part in parts)
    start = time.monotonic()
    features = teacher_features(load_teacher(teacher), few)
    minutes = (time.monotonic() - start) / len(few) * rows / 60
    say(f"data: the teacher's features of {rows:,} pictures are computed once, in about {minutes:.1f} minutes more")
    return np.resize(features, (rows, features.shape[1]))


def folder_tiles(folder: Path, size: int, report: Report) -> tuple[Pixels, Labels, list[str]]:
    """Pictures in sub-folders named after what they show, as squares: pixels, class indices and the names."""
    samples = [s for s in read_folder(folder, report) if s.name is not None]
    pixels: list[Pixels] = [np.empty((0, size, size, 3), np.uint8)]
    names: list[str] = []
    for sample in samples:
        with passing(report):
            pixels.append(np.asarray(sample.open().resize((size, size)))[None])
            names.append(sample.name or "")
    classes = sorted(set(names))
    return np.concatenate(pixels), np.asarray([classes.index(name) for name in names], np.int64), classes


def refuse_batch_statistics(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """On several processes no layer may look at a process's own slice of the batch."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if accelerator.num_processes == 1 or not norms:
        return model
    if accelerator.device.type != "cuda":
        raise MattoniError(
            "This encoder has batch norms, whose statistics would differ from process to process on CPUs: train it in one "
            "process, or choose an architecture without them (such as resnetv2_50x1_bit)."
        )
    synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synchronised


def start_weights(model: nn.Module, path: Path) -> None:
    """Load the weights that an earlier run left as `best.pt`."""
    try:
        model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except FileNotFoundError as problem:
        raise MattoniError(f"start_from: there is no {path}: run the config that makes it first.") from problem
    except RuntimeError as problem:
        raise MattoniError(f"start_from: {path} holds a model of another shape: give both runs the same.") from problem


def encoder_stage(recipe: EncoderRecipe, reading: Reading, accelerator: Accelerator, cache: Path) -> EncoderStage:
    """The stage that trains an encoder."""
    with accelerator.main_process_first():
        data = encoder_data(recipe, reading, cache)
    pictures = len(data.tiles) + len(data.captions)
    if pictures < recipe.batch:
        raise MattoniError(f"batch is {recipe.batch}, and there are {pictures} pictures: lower batch, or give more.")
    stage = EncoderStage(
        data,
        model_config(recipe.architecture, recipe.size, recipe.embedding),
        [Phase(p.size, p.epochs) for p in recipe.phases],
        recipe.batch,
        recipe.seed,
        recipe.teacher_weight,
        recipe.teacher_from_epoch,
        recipe.words_weight,
        recipe.area,
    )
    if recipe.start_from is not None:
        start_weights(stage.model, Path(recipe.start_from))
    stage.model = refuse_batch_statistics(stage.model, accelerator)
    return stage


def columns_stage(recipe: ColumnsRecipe, reading: Reading, accelerator: Accelerator, cache: Path) -> ColumnsStage:
    """The stage that trains an encoder on several labels."""
    bad = BadRows()

    def read(names: Sequence[str], classes: dict[str, list[str]] | None) -> Labelled:
        try:
            return read_labelled([reading.find(name) for name in names], classes, recipe.size, cache, bad.report)
        except MattoniError:
            # Why nothing is left says more than that nothing is left.
            bad.settle(False, reading.say)
            raise

    with accelerator.main_process_first():
        train, classes = read(recipe.data.rows, None)
        dev, _ = read(recipe.data.dev_rows, classes)
        bad.settle(reading.skip_bad_rows, reading.say)
    if len(train.pixels) < recipe.batch or not len(dev.pixels):
        raise MattoniError(
            f"batch is {recipe.batch}, and there are {len(train.pixels)} pictures to learn from and {len(dev.pixels)} to "
            "measure on: lower batch, or give more."
        )
    config = model_config(recipe.architecture, recipe.size, recipe.embedding, recipe.pool)
    stage = ColumnsStage(
        train, dev, classes, config, recipe.epochs, recipe.batch, recipe.seed, recipe.values_weight, recipe.frozen
    )
    if recipe.start_from is not None and recipe.start_from.startswith("local-dir:"):
        start_tower(stage.model, Path(recipe.start_from.removeprefix("local-dir:")))
    elif recipe.start_from is not None:
        start_weights(stage.model, Path(recipe.start_from))
    stage.model = refuse_batch_statistics(stage.model, accelerator)
    return stage


def tune_stage(recipe: TuneRecipe, reading: Reading, accelerator: Accelerator) -> TuneStage:
    """The stage that tunes a published encoder."""
    files, find, bad = recipe.data, reading.find, BadRows()
    places = classes_of(json.loads(find(files.classes).read_text(encoding="utf-8")))

    def pictures(names: Sequence[str]) -> Pixels:
        found = [picture for name in names for _, picture, _ in captioned_pictures(find(name), bad.report)]
        return crops_as_tiles(found, 1, recipe.size, recipe.seed)[:, 0]

    with accelerator.main_process_first():
        tiles, labels = sheet_tiles([find(name) for name in files.tiles], bad.report)
        dev_tiles, dev_labels = sheet_tiles([find(name) for name in files.dev_tiles], bad.report)
        others, dev_others = pictures(files.captioned), pictures(files.dev_captioned)
        bad.settle(reading.skip_bad_rows, reading.say)
    check_classes(labels, dev_labels, False)
    data = TuneData(tiles, places[labels], others, dev_tiles, places[dev_labels], dev_others)
    model = TunedModel(encoder_folder(recipe.encoder), load_classes(recipe.encoder), recipe.frozen)
    return TuneStage(
        model,
        data,
        recipe.size,
        recipe.steps,
        recipe.steps_per_evaluation,
        recipe.batch,
        recipe.pictures_per_batch,
        recipe.seed,
        recipe.kept_weight,
        recipe.area,
        recipe.share,
    )


def start_tower(model: nn.Module, folder: Path) -> None:
    """Begin with the trunk of another encoder of the same architecture; its pool and projection are learned anew."""
    weights = {
        f"clip.{name}": value for name, value in load_file(folder / WEIGHTS).items() if name.startswith("visual.trunk.")
    }
    left = model.load_state_dict(weights, strict=False)
    if not weights or left.unexpected_keys:
        raise MattoniError(f"start_from: the encoder in {folder} has another architecture: give both the same.")


def read_splits(recipe: WordsRecipe | GenerateRecipe, reading: Reading, device: torch.device) -> tuple[Split, Split]:
    """Samples for training and dev, checked, with feature caches."""
    encoder = load_encoder(recipe.encoder, device)
    bad, folder = BadRows(), Path(recipe.cache)
    sets: list[list[SampleSet]] = []
    digests: list[set[bytes]] = []
    for sources in (recipe.data, recipe.dev):
        sets.append([])
        digests.append(set())
        for source in sources:
            try:
                found = read_source(source, reading.find, recipe.seed, bad.report)
            except MattoniError:
                # Why nothing is left says more than that nothing is left.
                bad.settle(False, reading.say)
                raise
            marks = None if reading.trial else folder
            found, seen = without_unreadable(found, marks, bad.report, reading.say)
            sets[-1].append(found)
            digests[-1] |= seen
    train, dev = sets
    bad.settle(reading.skip_bad_rows, reading.say)
    check_what_is_given(recipe, [*train, *dev])
    refuse_without_choice(train)
    for warning in warnings_of(train, dev, digests[0] & digests[1]):
        reading.say(warning)
    for line in mixture(recipe, train):
        reading.say(line)
    return tuple(Split(found, [FeatureCache(folder, s, encoder) for s in found]) for found in (train, dev))  # type: ignore[return-value]


def check_what_is_given(recipe: WordsRecipe | GenerateRecipe, sets: Sequence[SampleSet]) -> None:
    """Raise MattoniError where recordings and pictures are mixed, or are not what the brick is to be given."""
    kinds = {is_sound(Path(sample.key)) for found in sets for sample in found.samples}
    if len(kinds) > 1:
        raise MattoniError("data: there are pictures and recordings: train a brick for each.")
    listens = kinds == {True}
    if isinstance(recipe, GenerateRecipe) and recipe.brick is not None and recipe.brick.listens != listens:
        what = "recordings" if listens else "pictures"
        raise MattoniError(
            f"brick.listens is {str(not listens).lower()}, and the data are {what}: correct one of them."
        )


def mixture(recipe: WordsRecipe | GenerateRecipe, sets: Sequence[SampleSet]) -> list[str]:
    """What each source really has of a batch, and how often the run goes through it.

    Raises MattoniError where a share is too small for its source to be drawn at all.
    """
    lines = []
    for source, found, share in zip(recipe.data, sets, Draws(sets, recipe.batch, recipe.seed).mixture(), strict=True):
        name = ", ".join(Path(file).name for file in source.files)
        if share == 0:
            raise MattoniError(
                f"data: the share of {name} is too small for a batch of {recipe.batch}, so it would never be drawn: raise "
                "share or batch, or take the source out."
            )
        times = share * recipe.batch * recipe.steps / len(found.samples)
        lines.append(
            f"data: {len(found.samples):,} pictures of {name}: {share:.1%} of a batch, each about {times:.1f} times"
        )
    return lines


def refuse_without_words(sets: Sequence[SampleSet], spelling: Spelling) -> None:
    """Raise MattoniError where the queries would have nothing to say of any picture."""
    if not any(sample.spells or spelling.said_of(sample) for found in sets for sample in found.samples):
        answer = sets[0].samples[0].turns[0][1]
        raise MattoniError(
            f"data: no answer holds a word that could be learned (the first is '{answer}'): give captions or names in words."
        )


def new_stitch(recipe: WordsRecipe, split: Split, spelling: Spelling, embedding: torch.Tensor) -> QFormerStitch:
    """A stitch with random weights that knows its words and the statistics of the features."""
    encoder, part = split.caches[0].encoder, recipe.stitch
    opening = spelling.tokenizer.encode(part.opening, add_special_tokens=False)
    torch.manual_seed(recipe.seed)
    stitch = QFormerStitch(
        StitchShape(
            tokens=encoder.tokens,
            feature_width=encoder.width,
            host_width=embedding.shape[1],
            words=len(spelling.ids),
            queries=part.queries,
            layers=part.layers,
            width=part.width,
            heads=part.heads,
            opening=len(opening),
            sharpness=part.sharpness,
        )
    )
    stitch.set_words(torch.tensor(spelling.ids), embedding, opening)
    rows = [cache.get([(i, 0) for i in range(min(STATISTICS, len(cache.samples)))]) for cache in split.caches]
    features = torch.cat(rows)
    stitch.feature_mean.copy_(features.mean(0))
    stitch.feature_scale.copy_(features.std(0).clamp(min=1e-3))
    return stitch


def words_stage(
    recipe: WordsRecipe,
    reading: Reading,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    embedding: torch.Tensor,
) -> WordsStage:
    """Stage 1 of a stitch, of which only the host's words are needed: tokenizer and (vocabulary, width) embedding."""
    with accelerator.main_process_first():
        split, dev = read_splits(recipe, reading, accelerator.device)
        before = started_stitch([Path(recipe.start_from)], embedding) if recipe.start_from else None
        words = before.word_ids.tolist() if before is not None else None
        spelling = Spelling(tokenizer, split.sources, recipe.stitch.words, recipe.stitch.skip_commonest, words)
        refuse_without_words(split.sources, spelling)
        stitch = new_stitch(recipe, split, spelling, embedding)
        if before is not None:
            take_over(stitch, before, recipe.learn == "features", recipe.kin)
    return WordsStage(stitch, spelling, split, dev, pace_of(recipe))


def looks(name: str) -> bool:
    """Whether this part of a stitch reads features."""
    return name == "places" or any(part in name for part in _LOOKING)


def take_over(stitch: QFormerStitch, before: QFormerStitch, freeze: bool, kin: bool = False) -> None:
    """Give a stitch for a new encoder the weights of one for another: all but those that look at features.

    freeze  what was taken over does not learn
    kin     the new encoder was tuned from the other: what looks at features is taken over too, and learns

    Raises MattoniError where the two are not built alike.
    """
    # Names of classes are given by a later stage.
    apart = {"tokens": 0, "feature_width": 0, "classes": 0, "pieces": 0, "sure": 0, "sure_of_name": None}
    shapes = [{**asdict(s.shape), **apart} for s in (stitch, before)]
    if shapes[0] != shapes[1]:
        raise MattoniError(
            f"start_from: that stitch has the shape {shapes[1]} and this config {shapes[0]}: write the same under stitch."
        )
    own = stitch.state_dict()
    known = {
        name: value
        for name, value in before.state_dict().items()
        if name in own
        and own[name].shape == value.shape
        and not (name.startswith("feature_") or looks(name) and not kin)
    }
    stitch.load_state_dict({**own, **known})
    for name, parameter in stitch.named_parameters():
        parameter.requires_grad_(not freeze or looks(name) or name not in known)


def pace_of(recipe: WordsRecipe | GenerateRecipe) -> Pace:
    """How much a stage of a stitch does."""
    return Pace(recipe.batch, recipe.steps, recipe.steps_per_evaluation, recipe.seed)


def check_takes_soft_tokens(host: PreTrainedModel, name: str) -> None:
    """Raise MattoniError unless the host reads embeddings behind a cache of keys and values, as a stitch needs it."""
    try:
        with torch.no_grad():
            cache = host(torch.zeros(1, 2, dtype=torch.long, device=host.device), use_cache=True).past_key_values
            keys = cache.layers[0].keys
            embedding = host.get_input_embeddings()(torch.zeros(1, 1, dtype=torch.long, device=host.device))
            host(inputs_embeds=embedding, past_key_values=cache, use_cache=True)
    except (TypeError, AttributeError, IndexError, ValueError, NotImplementedError, RuntimeError) as problem:
        raise MattoniError(
            f"{name}: this host takes no soft tokens (it has no cache of keys and values that they could join), so no image "
            "brick fits it: choose a decoder-only transformer."
        ) from problem
    assert keys is not None


def started_stitch(runs: Sequence[Path], embedding: torch.Tensor) -> QFormerStitch:
    """The stitch that an earlier run left, or the mean of several (model soups, Wortsman et al. 2022, arXiv:2203.05482)."""
    for run in runs:
        if not (run / STITCH).is_file():
            raise MattoniError(
                f"start_from: there is no stitch in {run}: run the config that makes it first, for the same host."
            )
    stitches = [load_stitch(run, embedding) for run in runs]
    first, *others = stitches
    # From when on a class is told is a setting, not a shape.
    if any(
        replace(other.shape, sure=first.shape.sure, sure_of_name=first.shape.sure_of_name) != first.shape
        or not torch.equal(other.word_ids, first.word_ids)
        for other in others
    ):
        raise MattoniError(
            "start_from: the stitches of these runs have other shapes or words: name runs that began alike."
        )
    states = [stitch.state_dict() for stitch in stitches]
    for name, value in states[0].items():
        if others and value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(0))
    return first


def naming_stitch(
    stitch: QFormerStitch,
    classes: Classes,
    tokenizer: PreTrainedTokenizerBase,
    sure: float,
    sure_of_name: float | None = None,
) -> QFormerStitch:
    """A stitch that also tells what the encoder's classifier is sure of, in the host's words, ended by full stops."""
    stop = tokenizer.encode(".", add_special_tokens=False)[-1]
    pieces = stitch.shape.pieces
    named = [tokenizer.encode(f" {name}", add_special_tokens=False)[:pieces] for name in classes.names]
    ids = torch.tensor([row + [stop] * (pieces - len(row)) for row in (*named, [])])
    return with_classes(stitch, classes.weight, classes.bias, ids, sure, sure_of_name)


def carried_stitch(
    before: QFormerStitch,
    theirs: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    embedding: torch.Tensor,
    opening: str,
) -> QFormerStitch:
    """The stitch of another host in the words of this one.

    A host's word of several tokens gives way to the first of them: of the photo brick's 2,807 words that are 109 for Qwen2.5.

    theirs     the tokenizer of the host that it was trained for
    tokenizer  of the host that it is to be for, with
    embedding  (vocabulary, width)
    """

    def ids(theirs_ids: Sequence[int]) -> list[int]:
        own: list[int] = tokenizer.encode(str(theirs.decode(list(theirs_ids))), add_special_tokens=False)
        return own

    words = torch.tensor([ids([word])[0] for word in before.word_ids.tolist()])
    opens = tokenizer.encode(opening, add_special_tokens=False)
    if not before.shape.classes:
        return for_words(before, words, None, opens, embedding)
    stop, pieces = ids([int(before.class_ids[-1, -1])])[-1], before.shape.pieces
    named = [ids(row)[:pieces] for row in before.class_ids.tolist()]
    classes = torch.tensor([row + [stop] * (pieces - len(row)) for row in named])
    return for_words(before, words, classes, opens, embedding)


def generate_stage(
    recipe: GenerateRecipe,
    reading: Reading,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    carried_from: PreTrainedTokenizerBase | None,
    host: PreTrainedModel,
    frame: PromptFrame,
    score_captions: CaptionScores,
    caption_metric: CaptionMetric,
) -> GenerateStage:
    """Stage 2 of a stitch, through the frozen host.

    carried_from  the tokenizer of the host that `carried` names
    """
    embedding = host.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    with accelerator.main_process_first():
        split, dev = read_splits(recipe, reading, accelerator.device)
    starts = [Path(run) for run in recipe.starts]
    if recipe.carried is None:
        stitch = started_stitch(starts, embedding)
    else:
        assert carried_from is not None
        stitch = carried_stitch(read_stitch(starts[0]), carried_from, tokenizer, embedding, recipe.carried.opening)
    taught = None
    if recipe.sure is not None:
        classes = load_classes(recipe.encoder)
        taught = Taught(classes.names, recipe.taught)
        # Its own would be those of the encoder that an earlier run read.
        stitch = naming_stitch(stitch, classes, tokenizer, recipe.sure, recipe.sure_of_name)
        stitch.read_host(embedding)
    stitch.requires_grad_(True)
    if recipe.learn != "all":
        learn_only(stitch, {"opening"} if recipe.learn == "opening" else OF_THE_HOST)
    words = stitch.word_ids.tolist()
    spelling = Spelling(tokenizer, split.sources, len(words), recipe.skip_commonest, words)
    rewarded = RewardedCaptions(split.sources, caption_metric, recipe.reward) if recipe.reward else None
    speaker = Speaker(host, frame)
    answers = DevAnswers(speaker, score_captions, recipe.new_tokens)
    return GenerateStage(
        stitch,
        speaker,
        split,
        dev,
        pace_of(recipe),
        answers,
        spelling,
        recipe.words_weight,
        recipe.blind,
        rewarded,
        taught,
    )
