"""In which charset bytes are text, where no one says so. Knows nothing of what the text is for."""

import unicodedata

import charset_normalizer

_SAMPLE = 65_536
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1a\x1b")
_CHARSETS = "cp1252 cp1251 koi8_r shift_jis euc_jp gb18030 big5 euc_kr cp1253 cp1255 cp1256".split()
# Of UTF-8 with a damaged byte or two, or of a log that two programs wrote, no more than this part is wrong.
_DAMAGED_SHARE = 0.05
_FEW_HIGH = 0.3
# Of Unicode, 256 characters each. Greek, Cyrillic or Arabic with Latin letters and quotes takes three.
_FEW_ROWS = 3
_DOS_LETTERS = "äöüÄÖÜßéèàâêçñôîûáíóúåÅæÆÉëïìòùÇÑ"


def charset_of(content: bytes) -> str | None:
    """By byte order mark, as UTF-8, as UTF-16, else the likeliest older charset; None for what is no text."""
    for mark, charset in _MARKS:
        if content.startswith(mark):
            return charset
    sample = content[:_SAMPLE]
    start = content[:4096]
    if b"\0" in sample or sum(start.count(byte) for byte in _CONTROLS) > len(start) / 20:
        return _utf16(sample)
    if _is_utf8(content):
        return "utf-8"
    few = sum(byte > 127 for byte in sample) < _FEW_HIGH * len(sample)
    if _is_dos(sample, few):
        # 858 is 850 with the euro sign. Frames that mix single and double lines are in 437 only.
        return "cp437" if any(sample.count(byte) for byte in b"\xb5\xb6\xbd\xbe\xc6\xc7\xd0\xd1\xd8") else "cp858"
    # With few letters above ASCII the detector guesses wildly: "short é" in Latin-1 became Cyrillic.
    if few:
        return "cp1252"
    wide = _utf16(sample)
    if wide is not None:
        return wide
    best = charset_normalizer.from_bytes(sample, cp_isolation=_CHARSETS).best()
    return None if best is None else best.encoding


def decoded(content: bytes) -> str | None:
    """The text, with what cannot be decoded as U+FFFD; None for what is no text."""
    charset = charset_of(content)
    return None if charset is None else content.decode(charset, errors="replace")


def _is_utf8(content: bytes) -> bool:
    text = content.decode("utf-8", errors="replace")
    wrong = text.count("\ufffd")
    return wrong == 0 or wrong < _DAMAGED_SHARE * sum(c > "\x7f" for c in text[: 4 * _SAMPLE])


def _utf16(sample: bytes) -> str | None:
    """Little or big endian, where that gives characters as a language has them; else None.

    Those are of few rows of Unicode, or ideographs with blanks, kana or full stops among them; binary data are neither.
    """
    sample = sample[: len(sample) // 2 * 2]
    likely: list[tuple[int, str]] = []
    for charset in ("utf-16-le", "utf-16-be"):
        try:
            text = sample.decode(charset)
        except UnicodeDecodeError as problem:
            # A character of two units may have been cut in two by the end of the sample.
            if problem.start < len(sample) - 2:
                continue
            text = sample[:-2].decode(charset)
        strange = sum(unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\n\r\f\ufeff" for c in text)
        rows = len({ord(c) >> 8 for c in text})
        plain = sum(c.isspace() or c.isascii() or "\u3000" <= c <= "\u30ff" or c in "，。！？：；（）、" for c in text)
        if text and strange <= len(text) / 100 and (rows <= _FEW_ROWS or plain > len(text) / 20):
            likely.append((rows - plain, charset))
    return min(likely)[1] if likely else None


def _is_dos(sample: bytes, few: bool) -> bool:
    """Whether high bytes make words with the letters beside them in code page 850 and not in 1252.

    In 1252 the umlauts of 850 are quotes, signs or nothing; inside a word that is wrong, but for an apostrophe or a dash.
    Frames of tables are letters in 1252, which repeat. Where there are more than a `few` high bytes only frames count.
    """
    windows = sample.decode("cp1252", errors="replace")
    letters, frames = sample.decode("cp858"), sample.decode("cp437")
    for_dos = against = 0
    for place, (there, here, frame) in enumerate(zip(windows, letters, frames, strict=True)):
        if there.isascii():
            continue
        before, after = windows[place - 1 : place], windows[place + 1 : place + 2]
        touched = [near.isascii() and near.isalpha() for near in (before, after)]
        if "─" <= frame <= "▓":
            repeated = there in (before, after)
            for_dos += repeated and there.isalpha()
            against += not repeated and there.isalpha() and any(touched)
        elif not few:
            against += 1
        elif here in _DOS_LETTERS and (there == "\ufffd" or (not there.isalpha() and there not in "’–—")):
            for_dos += there == "\ufffd" or all(touched)
        elif there.isalpha() and here not in _DOS_LETTERS:
            against += any(touched)
    return for_dos > 2 * against
