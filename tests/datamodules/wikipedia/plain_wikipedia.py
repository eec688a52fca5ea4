"""Wikipedia preprocessing written straight from the specification, in plain Python and slowly."""

import random
import unicodedata

CJK = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
       (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]  # fmt: skip


def plain_words(text):
    """Words and punctuation marks of a line."""
    cleaned = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\r\n" or category == "Zs":
            cleaned.append(" ")
        elif ord(character) in (0, 0xFFFD) or category in ("Cc", "Cf"):
            continue
        elif any(a <= ord(character) <= b for a, b in CJK):
            cleaned.append(f" {character} ")
        else:
            cleaned.append(character)
    words = []
    for word in "".join(cleaned).split():
        decomposed = unicodedata.normalize("NFD", word.lower())
        current = ""
        for character in decomposed:
            if unicodedata.category(character) == "Mn":
                continue
            code = ord(character)
            sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
            if sign or unicodedata.category(character).startswith("P"):
                words += [current, character]
                current = ""
            else:
                current += character
        words.append(current)
    return " ".join(words).split()


def plain_pieces(text, ids):
    """Word-piece ids of a line."""
    out = []
    for word in plain_words(text):
        pieces, start = [], 0
        while start < len(word) and len(word) <= 200:
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in ids:
                    pieces.append(ids[piece])
                    start = end
                    break
            else:
                break
        out += pieces if start == len(word) else [ids["[UNK]"]]
    return out


def plain_articles(text, ids):
    """Articles as lists of sentences as lists of ids."""
    articles = [[]]
    for line in text.split("\n"):
        if not line.strip():
            articles.append([])
        elif sentence := plain_pieces(line, ids):
            articles[-1].append(sentence)
    return [article for article in articles if article]


def plain_samples(articles, ids, size, *, length=512, predictions=76, prob=0.15, short=0.1,
                  dupe=10, seed=12345):  # fmt: skip
    """Samples as dicts, in the order of the reference's output file."""
    rng = random.Random(seed)
    articles = list(articles)
    rng.shuffle(articles)
    samples = []
    for _ in range(dupe):
        for number in range(len(articles)):
            samples += _article(articles, number, rng, ids, size, length, predictions, prob, short)
    rng.shuffle(samples)
    return samples


def _article(  # noqa: C901
    articles, number, rng, ids, size, length, predictions, prob, short
):
    article, limit, samples = articles[number], length - 3, []
    target = limit
    if rng.random() < short:
        target = rng.randint(2, limit)
    chunk, total, i = [], 0, 0
    while i < len(article):
        chunk.append(article[i])
        total += len(article[i])
        if i == len(article) - 1 or total >= target:
            a_end = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
            a = [t for sentence in chunk[:a_end] for t in sentence]
            b = []
            if random_next := (len(chunk) == 1 or rng.random() < 0.5):
                wanted = target - len(a)
                for _ in range(10):
                    other = rng.randint(0, len(articles) - 1)
                    if other != number:
                        break
                begin = rng.randint(0, len(articles[other]) - 1)
                for sentence in articles[other][begin:]:
                    b += sentence
                    if len(b) >= wanted:
                        break
                i -= len(chunk) - a_end
            else:
                b = [t for sentence in chunk[a_end:] for t in sentence]
            while len(a) + len(b) > limit:
                longer = a if len(a) > len(b) else b
                if rng.random() < 0.5:
                    del longer[0]
                else:
                    longer.pop()
            samples.append(_masked(a, b, random_next, rng, ids, size, predictions, prob))
            chunk, total = [], 0
        i += 1
    return samples


def _masked(a, b, random_next, rng, ids, size, predictions, prob):
    tokens = [ids["[CLS]"], *a, ids["[SEP]"], *b, ids["[SEP]"]]
    separators = (0, len(a) + 1, len(tokens) - 1)
    candidates = [i for i in range(len(tokens)) if i not in separators]
    rng.shuffle(candidates)
    count = min(predictions, max(1, int(round(len(tokens) * prob))))
    masked, output = [], list(tokens)
    for position in candidates[:count]:
        if rng.random() < 0.8:
            output[position] = ids["[MASK]"]
        elif rng.random() >= 0.5:
            output[position] = rng.randint(0, size - 1)
        masked.append((position, tokens[position]))
    masked.sort()
    return {
        "tokens": output,
        "first": len(a) + 2,
        "masked": masked,
        "random_next": int(random_next),
    }
