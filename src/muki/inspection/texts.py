"""A look at a text source: how many, how long, how often the same, in which languages."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from muki.texts import Text

MOST = 1_000_000  # texts that are looked at; of more, the rest is only announced
SAMPLE = 2000
_SCRIPTS = {
    "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean", "CYRILLIC": "Cyrillic script",
    "ARABIC": "Arabic script", "DEVANAGARI": "Devanagari script", "GREEK": "Greek", "HEBREW": "Hebrew", "THAI": "Thai",
}  # fmt: skip
_COMMON = {
    "English": "the of and to in is that it for was on with as are this you have not be",
    "German": "der die und das ist nicht ich zu mit den von ein eine auf für dem auch wird sich",
    "French": "le la les et des est une que pour dans pas qui sur au du avec ce vous je",
    "Spanish": "el los las y que es una por para con no se del en lo como mi está su",
    "Italian": "il che di è non per una sono con del della gli ho mi alla come questo più",
    "Portuguese": "o os que não é uma para do da em um se por mais você está meu",
    "Dutch": "de het een en van is niet ik dat op te voor met zijn aan er maar heb",
}
_SHORT = 8
_COMMON_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}


@dataclass(frozen=True)
class TextsLook:
    """What was seen of a source.

    Attributes:
        count: non-empty texts; `capped` says that there are more.
        empty: empty or whitespace ones, which a run skips.
        duplicates: texts that are equal to an earlier one but for case and white space.
        languages: guessed share of each, of a sample.
        mean_bytes: of a text in UTF-8.
        sample: texts drawn evenly, in their order.
    """

    count: int
    capped: bool
    empty: int
    duplicates: int
    languages: dict[str, float]
    mean_bytes: float
    sample: list[Text] = field(repr=False)


def look(texts: Iterable[Text], seed: int = 0, most: int = MOST) -> TextsLook:
    """Go through a source once, in constant memory but for a number a text (some 70 bytes), which finds duplicates."""
    rng = random.Random(seed)
    seen: set[int] = set()
    kept: list[Text] = []
    count = empty = duplicates = size = 0
    capped = False
    for text in texts:
        if not text.text.strip():
            empty += 1
            continue
        if count == most:
            capped = True
            break
        count += 1
        size += len(text.text.encode()) + len((text.text_pair or "").encode())
        key = hash(" ".join(f"{text.text}\n{text.text_pair or ''}".casefold().split()))
        duplicates += key in seen
        seen.add(key)
        if len(kept) < SAMPLE:
            kept.append(text)
        elif (place := rng.randrange(count)) < SAMPLE:
            kept[place] = text
    kept.sort(key=lambda text: text.row)
    return TextsLook(count, capped, empty, duplicates, languages(kept), size / max(count, 1), kept)


def languages(texts: Sequence[Text]) -> dict[str, float]:
    """Share of each guessed language, most first; from the script, and for Latin script from common words."""
    counts = Counter(guess_language(text.text) for text in texts)
    return {language: n / len(texts) for language, n in counts.most_common()}


def guess_language(text: str) -> str:
    """One text's language: a guess good enough to notice a wrong vocabulary, not more.

    In a text of more than a few words, one common word proves nothing: many are words of several languages.
    """
    letters = [c for c in text[:500] if c.isalpha()]
    scripts = Counter(
        _SCRIPTS.get(unicodedata.name(c, "").split(" ")[0].split("-")[0], "Latin") if ord(c) > 0x2AF else "Latin"
        for c in letters
    )
    if scripts["Japanese"]:
        return "Japanese"
    if scripts and scripts.most_common(1)[0][0] != "Latin":
        return scripts.most_common(1)[0][0]
    words = re.findall(r"[^\W\d_]+", text[:500].casefold())
    hits = {language: sum(word in common for word in words) for language, common in _COMMON_WORDS.items()}
    best = max(hits, key=lambda language: hits[language])
    return best if hits[best] > (len(words) > _SHORT) else "unclear"
