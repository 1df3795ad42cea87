"""Builds the stages of a modality brick from a recipe: data, model, steps. Training only; what belongs to a host is an argument."""

from collections.abc import Callable, Sequence
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401  (before open_clip and transformers)

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mattoni.errors import MattoniError
from modality_bricks.columns_stage import ColumnsStage, read_labelled
from modality_bricks.encoder import load_encoder
from modality_bricks.encoder_stage import EncoderData, EncoderStage, Phase, model_config
from modality_bricks.features import FeatureCache
from modality_bricks.packs import Labels, Pixels, captioned_pictures, crops_as_tiles, sheet_tiles
from modality_bricks.recipe import ColumnsRecipe, EncoderRecipe, GenerateRecipe, WordsRecipe
from modality_bricks.samples import SampleSet, Source, read_source
from modality_bricks.stitch import QFormerStitch, StitchShape, load_stitch
from modality_bricks.stitch_stages import CaptionScore, ChatFrame, GenerateStage, Spelling, Split, WordsStage
from modality_bricks.teacher import load_teacher, teacher_features

CROPS_PER_PICTURE, CROP_SIZE = 3, 96
Find = Callable[[str], Path]


def encoder_data(recipe: EncoderRecipe, find: Find, cache: Path) -> EncoderData:
    """Read the packs and, if there is a teacher, compute its features once."""
    files = recipe.data
    if files.folder is not None:
        tiles, labels, names = folder_tiles(find(files.folder), recipe.size)
        dev_tiles, dev_labels, dev_names = folder_tiles(find(files.dev_folder or files.folder), recipe.size)
        if names != dev_names:
            raise MattoniError("data: folder and dev_folder must hold the same sub-folders, one per thing.")
    else:
        tiles, labels = sheet_tiles([find(name) for name in files.tiles])
        dev_tiles, dev_labels = sheet_tiles([find(name) for name in files.dev_tiles])
    rows = [row for name in files.captioned for row in captioned_pictures(find(name))]
    crops = crops_as_tiles([picture for _, picture, _ in rows], CROPS_PER_PICTURE, CROP_SIZE, recipe.seed)
    teacher = None
    if files.teacher is not None:
        path = cache / "teacher.npy"
        if not path.exists():
            model = load_teacher(find(files.teacher))
            small = crops_as_tiles([picture for _, picture, _ in rows], CROPS_PER_PICTURE, tiles.shape[1], recipe.seed)
            parts = [tiles, small.reshape(-1, *small.shape[2:])]
            cache.mkdir(parents=True, exist_ok=True)
            np.save(path, np.concatenate([teacher_features(model, part) for part in parts if len(part)]))
        teacher = np.load(path)
    return EncoderData(tiles, labels, crops, [captions for _, _, captions in rows], teacher, dev_tiles, dev_labels)


def folder_tiles(folder: Path, size: int) -> tuple[Pixels, Labels, list[str]]:
    """Pictures in sub-folders named after what they show, as squares: pixels, class indices and the names."""
    samples = read_source(Source(format="folder", files=(str(folder),)), Path).samples
    names = sorted({s.name for s in samples if s.name is not None})
    pixels = np.stack([np.asarray(s.open().resize((size, size))) for s in samples])
    return pixels, np.asarray([names.index(s.name) for s in samples if s.name is not None]), names


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


def encoder_stage(recipe: EncoderRecipe, find: Find, accelerator: Accelerator, cache: Path) -> EncoderStage:
    """The stage that trains an encoder."""
    with accelerator.main_process_first():
        data = encoder_data(recipe, find, cache)
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


def columns_stage(recipe: ColumnsRecipe, find: Find, accelerator: Accelerator, cache: Path) -> ColumnsStage:
    """The stage that trains an encoder on several labels."""
    with accelerator.main_process_first():
        train, classes = read_labelled([find(name) for name in recipe.data.rows], None, recipe.size, cache)
        dev, _ = read_labelled([find(name) for name in recipe.data.dev_rows], classes, recipe.size, cache)
    config = model_config(recipe.architecture, recipe.size, recipe.embedding, recipe.pool)
    stage = ColumnsStage(train, dev, classes, config, recipe.epochs, recipe.batch, recipe.seed, recipe.values_weight)
    if recipe.start_from is not None:
        start_weights(stage.model, Path(recipe.start_from))
    stage.model = refuse_batch_statistics(stage.model, accelerator)
    return stage


def read_split(
    sources: Sequence[Source], recipe: WordsRecipe | GenerateRecipe, find: Find, device: torch.device
) -> Split:
    """Samples with feature caches."""
    encoder = load_encoder(recipe.encoder, device)
    sets: list[SampleSet] = [read_source(source, find, recipe.seed) for source in sources]
    return Split(sets, [FeatureCache(Path(recipe.cache), s, encoder) for s in sets])


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
    rows = [cache.get([(i, 0) for i in range(min(512, len(cache.samples)))]) for cache in split.caches]
    features = torch.cat(rows)
    stitch.feature_mean.copy_(features.mean(0))
    stitch.feature_scale.copy_(features.std(0).clamp(min=1e-3))
    return stitch


def words_stage(
    recipe: WordsRecipe,
    find: Find,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    embedding: torch.Tensor,
) -> WordsStage:
    """Stage 1 of a stitch, of which only the host's words are needed: tokenizer and (vocabulary, width) embedding."""
    with accelerator.main_process_first():
        split, dev = (read_split(sources, recipe, find, accelerator.device) for sources in (recipe.data, recipe.dev))
        spelling = Spelling(tokenizer, split.sources, recipe.stitch.words, recipe.stitch.skip_commonest)
        stitch = new_stitch(recipe, split, spelling, embedding)
    return WordsStage(
        stitch, spelling, split, dev, recipe.batch, recipe.steps, recipe.steps_per_evaluation, recipe.seed
    )


def generate_stage(
    recipe: GenerateRecipe,
    find: Find,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    host: PreTrainedModel,
    frame: ChatFrame,
    score_captions: CaptionScore,
) -> GenerateStage:
    """Stage 2 of a stitch, through the frozen host."""
    embedding = host.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    with accelerator.main_process_first():
        split, dev = (read_split(sources, recipe, find, accelerator.device) for sources in (recipe.data, recipe.dev))
    stitch = load_stitch(Path(recipe.start_from), embedding).requires_grad_(recipe.learn == "all")
    if recipe.learn == "opening":
        stitch.opening.requires_grad_(True)
    words = stitch.word_ids.tolist()
    spelling = Spelling(tokenizer, split.sources, len(words), recipe.skip_commonest, words)
    return GenerateStage(
        stitch,
        host,
        frame,
        split,
        dev,
        recipe.batch,
        recipe.steps,
        recipe.steps_per_evaluation,
        recipe.seed,
        score_captions,
        recipe.new_tokens,
        spelling,
        recipe.words_weight,
        recipe.blind,
    )
