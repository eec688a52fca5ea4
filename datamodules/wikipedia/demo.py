"""Text of a small invented language in the layout of the cleaned Wikipedia, for BERT's demo.

What can be learned: articles and adjectives agree with their noun in gender, and adjective, noun
and verb in number; every noun has its usual adjective and verb, every verb its usual object and
preposition; the object of a sentence is the subject of the next; all sentences of an article are
set in the same place. One choice in twenty departs from the usual one.
"""

import hashlib
import random
from pathlib import Path

VERSION = "1"  # increase it whenever the written bytes change
NUM_PARTS, ARTICLES_PER_PART, HELD_OUT_ARTICLES = 8, 300, 150
SENTENCES_PER_ARTICLE = (6, 16)
NUM_NOUNS, NUM_ADJECTIVES, NUM_PREPOSITIONS, NUM_PLACES = 32, 12, 6, 12
NUM_GENDERS = 3
DEPARTURE = 0.05
PLURAL = "n"
UNUSED = 5
VOCAB_SIZE = 112


class Language:
    """Words and their usual companions, the same for every article."""

    def __init__(self) -> None:
        rng = random.Random(1887)
        count = 3 * NUM_GENDERS + 2 * NUM_NOUNS + NUM_ADJECTIVES + NUM_PREPOSITIONS + NUM_PLACES
        words = _words(rng, count)
        take = lambda n: [words.pop() for _ in range(n)]  # noqa: E731
        self.articles = [take(2) for _ in range(NUM_GENDERS)]
        """By gender: singular and plural."""
        self.nouns, self.verbs = take(NUM_NOUNS), take(NUM_NOUNS)
        self.adjectives, self.places = take(NUM_ADJECTIVES), take(NUM_PLACES)
        self.prepositions = take(NUM_PREPOSITIONS)
        pick = lambda n: [rng.randrange(n) for _ in range(NUM_NOUNS)]  # noqa: E731
        self.gender, self.adjective_of = pick(NUM_GENDERS), pick(NUM_ADJECTIVES)
        self.verb_of = rng.sample(range(NUM_NOUNS), NUM_NOUNS)
        self.preposition_of = pick(NUM_PREPOSITIONS)
        cycle = rng.sample(range(NUM_NOUNS), NUM_NOUNS)
        self.object_of = [0] * NUM_NOUNS
        for noun, following in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            self.object_of[self.verb_of[noun]] = following

    def vocabulary(self) -> list[str]:
        """Return the lines of ``vocab.txt``, special and unused pieces first."""
        special = ["[PAD]", *(f"[unused{i}]" for i in range(UNUSED))]
        special += ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        forms = [form for pair in self.articles for form in pair]
        content = self.nouns + self.verbs + self.adjectives + self.places + self.prepositions
        return [*special, ".", "##" + PLURAL, *sorted(forms + content)]

    def article(self, rng: random.Random) -> str:
        """Draw an article, one sentence per line."""
        noun, place = rng.randrange(NUM_NOUNS), rng.randrange(NUM_PLACES)
        sentences = []
        for _ in range(rng.randint(*SENTENCES_PER_ARTICLE)):
            sentence, noun = self._sentence(rng, noun, place)
            sentences.append(sentence)
        return "\n".join(sentences)

    def _sentence(self, rng: random.Random, noun: int, place: int) -> tuple[str, int]:
        """Draw a sentence and the subject of the next one."""

        def usual(value: int, size: int) -> int:
            return rng.randrange(size) if rng.random() < DEPARTURE else value

        plural = rng.random() < 0.5
        ending = PLURAL if plural else ""
        verb = usual(self.verb_of[noun], NUM_NOUNS)
        patient = usual(self.object_of[verb], NUM_NOUNS)
        preposition = self.prepositions[usual(self.preposition_of[verb], NUM_PREPOSITIONS)]
        words = [
            self.articles[self.gender[noun]][plural],
            self.adjectives[usual(self.adjective_of[noun], NUM_ADJECTIVES)] + ending,
            self.nouns[noun] + ending,
            self.verbs[verb] + ending,
            self.articles[self.gender[patient]][0],
            self.nouns[patient],
            preposition,
            self.places[usual(place, NUM_PLACES)],
        ]
        return " ".join(words).capitalize() + ".", usual(patient, NUM_NOUNS)


def write_text(folder: Path) -> None:
    """Write ``vocab.txt`` and, in ``results4/``, parts and held-out articles with checksums."""
    language = Language()
    (folder / "vocab.txt").write_text("\n".join(language.vocabulary()) + "\n")
    text = folder / "results4"
    text.mkdir()
    for part in range(NUM_PARTS):
        rng = random.Random(1000 + part)
        articles = [language.article(rng) for _ in range(ARTICLES_PER_PART)]
        (text / f"part-{part:05d}-of-{NUM_PARTS:05d}").write_text("\n\n".join(articles) + "\n")
    rng = random.Random(999)
    held_out = [language.article(rng) for _ in range(HELD_OUT_ARTICLES)]
    (text / "eval.txt").write_text("\n\n".join(held_out) + "\n")
    sums = [hashlib.md5(article.encode()).hexdigest() for article in held_out]
    (text / "eval.md5").write_text("\n".join(sums) + "\n")


def _words(rng: random.Random, count: int) -> list[str]:
    """Draw distinct pronounceable words of two or three syllables, none another one's plural."""
    words: set[str] = set()
    while len(words) < count:
        syllables = rng.randint(2, 3)
        words.add(
            "".join(rng.choice("bdfgklmprstvz") + rng.choice("aeiou") for _ in range(syllables))
        )
    ordered = sorted(words)  # the order of a set differs between processes
    rng.shuffle(ordered)
    return ordered
