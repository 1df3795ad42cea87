"""Opens recordings and the sound tracks of films: FFmpeg, through PyAV. Knows nothing of what is said in them.

FFmpeg is told which container it has, as `mattoni.kinds` recognised it, and gets bytes alone: left to guess, it takes a
playlist for a film and opens what that names.
"""

import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from assistant.turn.look.opened import DAMAGED, SEND_PART, Limits, Opened, Refused, Track
from mattoni.inputs import SAMPLE_RATE_HZ, Samples
from mattoni.kinds import Format, format_of

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer

LOG = logging.getLogger(__name__)

_DEMUXERS: dict[Format, str] = {
    "wav": "wav", "mp3": "mp3", "flac": "flac", "ogg": "ogg", "m4a": "mov", "aac": "aac", "amr": "amr", "aiff": "aiff",
    "caf": "caf", "wma": "asf", "webm-sound": "matroska",
}  # fmt: skip
_FILMS = (
    (b"OggS", "ogg"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"RIFF", "avi"),
    (b"FLV", "flv"),
    (b"\0\0\1\xba", "mpeg"),
)
# Objects of an ASF header that say how its contents are encrypted: "Content Encryption" and the extended one, section 3.
_ASF_LOCKS = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)
_PROTECTED = "is protected against copying (DRM), so nothing can be heard in it: send a recording without protection."


def open_sound(content: bytes, limits: Limits) -> Opened:
    """The sound of a recording or a film. Raises Refused for one that is locked, damaged, or holds none."""
    import av  # FFmpeg's libraries take a tenth of a second to load, and most messages bring no sound

    is_film = format_of(content) == "film"
    if _is_protected(content):
        raise Refused(_PROTECTED)
    try:
        with _container(content) as container:
            if not container.streams.audio:
                silent = "is a film without sound, and films are not looked at: send pictures of it."
                raise Refused(silent if is_film else DAMAGED)
            seconds = _length_s(container, limits.seconds)
        heard = next(_blocks(content, limits.seconds), None)
    except av.FFmpegError as problem:
        raise Refused(DAMAGED) from problem
    if heard is None or seconds <= 0:
        raise Refused("holds no sound: record it again.")
    told = []
    if is_film:
        told.append(("film", "is a film: it was listened to, and its pictures were not looked at."))
    if seconds > limits.seconds:
        length = f"is {in_words(seconds)} long, and only its first {in_words(limits.seconds)} are listened to"
        told.append(("truncated", f"{length}: {SEND_PART}"))
    track = Track(min(seconds, limits.seconds), lambda: _blocks(content, limits.seconds), is_film)
    return Opened(track, tuple(told))


def in_words(seconds: float) -> str:
    """A length of time, for a sentence."""
    if seconds >= 5400:
        return f"{seconds / 3600:.3g} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _container(content: bytes) -> "InputContainer":
    import av

    found = format_of(content)
    demuxer = _DEMUXERS.get(found) or next((name for start, name in _FILMS if content.startswith(start)), "mov")
    return av.open(io.BytesIO(content), "r", demuxer, metadata_errors="replace")


def _length_s(container: "InputContainer", most: float) -> float:
    """Seconds of the first sound track, as its header has them; counted where that says nothing, or more than `most`."""
    import av

    stream = container.streams.audio[0]
    told = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    told = told or float(container.duration or 0) / av.time_base
    if 0 < told <= most:
        return told
    together = last = 0.0
    for packet in container.demux(stream):
        if packet.time_base is not None:
            together += float((packet.duration or 0) * packet.time_base)
            last = float((packet.pts - (stream.start_time or 0)) * packet.time_base) if packet.pts else last
        if max(together, last) > most:
            return max(together, last, told)
    return max(together, last)


def _blocks(content: bytes, most_seconds: float) -> Iterator[Samples]:
    """The sound as one channel at `SAMPLE_RATE_HZ`, block by block, float32 within -1 and 1."""
    left = int(most_seconds * SAMPLE_RATE_HZ)
    with _container(content) as container:
        for frame in _resampled(_frames(container)):
            block = frame.to_ndarray().reshape(-1)[:left]
            left -= block.size
            if block.size:
                # A file of floating point numbers may hold what is none.
                yield np.nan_to_num(block, posinf=0.0, neginf=0.0).clip(-1.0, 1.0)
            if left <= 0:
                return


def _frames(container: "InputContainer") -> Iterator["AudioFrame"]:
    """The frames of the first sound track; what is damaged in between is passed over."""
    import av

    for packet in container.demux(container.streams.audio[0]):
        try:
            yield from packet.decode()
        except av.FFmpegError as problem:
            LOG.debug("a packet of sound cannot be decoded", exc_info=problem)


def _resampled(frames: Iterator["AudioFrame"]) -> Iterator["AudioFrame"]:
    """As one channel at `SAMPLE_RATE_HZ`; rate and channels may change within a recording."""
    from av import AudioResampler

    resampler, form = None, None
    for frame in frames:
        if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
            yield from resampler.resample(None) if resampler is not None else ()
            resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        assert resampler is not None
        frame.pts = None  # gaps between frames stay gaps, and are not filled
        yield from resampler.resample(frame)
    yield from resampler.resample(None) if resampler is not None else ()


def _is_protected(content: bytes) -> bool:
    """Whether the header says that the sound is encrypted (ISO 14496-12, box `sinf`; ASF)."""
    if any(lock in content[:65_536] for lock in _ASF_LOCKS):
        return True
    return content[4:8] == b"ftyp" and b"sinf" in _iso_box(content, b"moov")


def _iso_box(content: bytes, wanted: bytes) -> bytes:
    """The first box of that name at the top of an ISO file; empty where there is none."""
    start = 0
    while start + 8 <= len(content):
        size, name = int.from_bytes(content[start : start + 4]), content[start + 4 : start + 8]
        if size == 1:  # a size of 64 bits follows
            size = int.from_bytes(content[start + 8 : start + 16])
        end = start + size if size >= 8 else len(content)
        if name == wanted:
            return content[start:end]
        start = end
    return b""
