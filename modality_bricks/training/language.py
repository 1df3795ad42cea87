"""Guesses the language of a sentence from its script and its commonest words. Training only.

Made for one question: which captions are in another language than the rest? It knows seven languages in Latin letters, tells
other scripts apart but not the languages that share one, and says nothing about a text of a few words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# Words that stand in almost every sentence of a language and hardly in the others: those that sentences are made with, ...
_FUNCTION = {
    "English": "a the and is of with are at in on to for by up her his from an near who their",
    "German": "der die das ein eine einen einem einer und ist auf mit in im von zu den dem am an vor während",
    "French": "le la les un une et est dans de des du sur avec au en sont qui il elle pour par",
    "Spanish": "el la los las un una y es en de del con por que está están su se al para sobre",
    "Italian": "il lo la gli le un una uno e è di del della nel nella con che sono su al per mentre",
    "Portuguese": "o os um uma e é em de da na com que está estão para por uns",
    "Dutch": "de het een en is van op met in zijn aan die dat voor naar bij naast",
}
# ... and those that captions hold all the time.
_OFTEN = {
    "English": "man woman two three wearing standing sitting",
    "German": "zwei trägt steht sitzt mann frau",
    "French": "deux homme femme",
    "Spanish": "dos hombre mujer",
    "Italian": "due uomo donna",
    "Portuguese": "dois homem mulher",
    "Dutch": "twee man vrouw zit staat draagt",
}
FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _FUNCTION.items()}
_WORDS = {language: known | frozenset(_OFTEN[language].split()) for language, known in FUNCTION_WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")
_LEAST = 2  # common words that a guess rests on, and by which it must lead


def language_of(text: str) -> str | None:
    """The language, or the script if it is not Latin; None where the text does not tell."""
    words = _WORD.findall(text.lower())
    scripts = Counter(_script(letter) for word in words for letter in word)
    if not scripts:
        return None
    script, letters = scripts.most_common(1)[0]
    if script != "LATIN":
        return f"{script.capitalize()} script" if letters >= 3 else None
    found = sorted(((sum(w in known for w in words), language) for language, known in _WORDS.items()), reverse=True)
    (most, language), (second, _) = found[:2]
    return language if most >= _LEAST and most - second >= _LEAST else None


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]


def in_another_language(texts: Sequence[str]) -> tuple[str | None, dict[int, str]]:
    """The language of most of the texts that tell theirs, and the places of those that are in another one."""
    guesses = {i: guess for i, text in enumerate(texts) if (guess := language_of(text)) is not None}
    if not guesses:
        return None, {}
    usual = Counter(guesses.values()).most_common(1)[0][0]
    return usual, {i: guess for i, guess in guesses.items() if guess != usual}
