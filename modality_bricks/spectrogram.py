"""A recording as a picture of its sound, which a vision encoder can see. Knows nothing of hosts, stitches or cards.

Method: the log mel spectrogram of AST (Gong et al. 2021, arXiv:2104.01778, section 2.1), which a transformer for pictures reads: 128
bands, windows of 25 ms, steps of 10 ms, 10.24 s. What is longer is cut there, as in AudioSet's clips.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
from PIL import Image
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from mattoni.inputs import SAMPLE_RATE_HZ, Samples

SECONDS = 10.24
_BANDS, _WINDOW, _STEP, _FFT = 128, 400, 160, 1024
_SIDE = 256  # pixels: square, as encoders cut pictures of other shapes
_RANGE = 8 * np.log(10.0)  # nats below the loudest place that are still seen, as Whisper has it
_QUIET = -8.0  # a recording whose loudest place lies below is dark: what is no sound is not blown up into one


def sound_picture(blocks: Iterable[Samples]) -> Image.Image:
    """The beginning of a recording as a square picture, time to the right and pitch upwards, the loudest place white.

    blocks  samples in order, float32 between -1 and 1, at `SAMPLE_RATE_HZ`
    """
    length = int(SECONDS * SAMPLE_RATE_HZ)
    samples = np.zeros(length, np.float32)
    filled = 0
    for block in blocks:
        part = block[: length - filled]
        samples[filled : filled + len(part)] = part
        filled += len(part)
        if filled == length:
            break
    log_mel = spectrogram(
        samples,
        window_function(_WINDOW, "hann", periodic=False),
        _WINDOW,
        _STEP,
        fft_length=_FFT,
        power=2.0,
        center=False,
        mel_filters=_bank(),
        log_mel="log",
        mel_floor=1e-12,
        remove_dc_offset=True,
    )  # (bands, steps)
    top = max(float(log_mel.max()), _QUIET)
    shades = np.clip((log_mel - (top - _RANGE)) / _RANGE, 0.0, 1.0)
    picture = Image.fromarray((255 * shades[::-1]).astype(np.uint8), "L")
    return picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).convert("RGB")


@cache
def _bank() -> np.ndarray:
    bank: np.ndarray = mel_filter_bank(
        _FFT // 2 + 1,
        _BANDS,
        20.0,
        SAMPLE_RATE_HZ / 2,
        SAMPLE_RATE_HZ,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return bank
