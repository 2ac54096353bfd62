"""Short everyday sentences for the synthetic corpora.

The words carry no emotion, so only the voice does.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grammar:
    """Word lists of one language; `order` is the template of a sentence."""

    order: str
    subjects: tuple[str, ...]
    verbs: tuple[str, ...]
    objects: tuple[str, ...]
    adverbs: tuple[str, ...]

    def sentence(self, rng: np.random.Generator) -> str:
        """Draw one sentence; each word is drawn uniformly from its list."""
        return self.order.format(
            subject=rng.choice(self.subjects),
            verb=rng.choice(self.verbs),
            object=rng.choice(self.objects),
            adverb=rng.choice(self.adverbs),
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


GRAMMARS = {
    "en": Grammar(
        order="{subject} {verb} {object} {adverb}.",
        subjects=_words(
            "My brother, The teacher, Our neighbour, A student, The doctor, "
            "Your cousin, The driver, Her uncle, The baker, Some visitor"
        ),
        verbs=_words("brings, finds, keeps, takes, shows, holds, buys, moves, draws, carries"),
        objects=_words(
            "the letter, the basket, a blue cup, the old map, a small box, "
            "the garden key, her coat, the lamp, a paper bag, the green book"
        ),
        adverbs=_words("today, at noon, again, after lunch, on Monday, upstairs"),
    ),
    "de": Grammar(
        order="{subject} {verb} {adverb} {object}.",
        subjects=_words(
            "Mein Bruder, Die Lehrerin, Unser Nachbar, Ein Student, Die Ärztin, "
            "Deine Tante, Der Fahrer, Ihr Onkel, Der Bäcker, Ein Besucher"
        ),
        verbs=_words("bringt, findet, sucht, nimmt, zeigt, hält, kauft, holt, malt, trägt"),
        objects=_words(
            "den Brief, die Tasche, das Buch, den Schlüssel, die Lampe, "
            "den Korb, die Karte, das Bild, den Mantel, die Dose"
        ),
        adverbs=_words("heute, morgens, wieder, am Montag, dort, oben"),
    ),
    "pl": Grammar(
        order="{subject} {verb} {adverb} {object}.",
        subjects=_words(
            "Mój brat, Nasza sąsiadka, Ten student, Twój wujek, Pani doktor, "
            "Nowy kierowca, Moja ciocia, Stary piekarz, Jego kuzyn, Młoda pani"
        ),
        verbs=_words("widzi, ma, bierze, niesie, trzyma, znajduje, kupuje, chowa, rysuje, myje"),
        objects=_words("książkę, list, klucz, torbę, mapę, kubek, lampę, obraz, koszyk, płaszcz"),
        adverbs=_words("dzisiaj, rano, znowu, w domu, teraz, na górze"),
    ),
}
"""Grammars by eSpeak NG language code."""
