"""What the bundled summarizer practises on: documents and their first sentences, in tokens.

Some first sentences are those of texts, some those of invented news, and some are made
of random words. The news and the random ones say the same few words again and again in
another order, and pieces of many first sentences come again further down. So what is
learned is to copy from the right place, and not what documentation usually says. Where
the texts come from is in :mod:`assets.models.lead_summarizer.corpus`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from assets.models.lead_summarizer.reference import SPECIAL_TOKENS, first_sentence

__all__ = ["Example", "Examples"]

_LONGEST_ANSWER = 120
_LONGEST_WORD = 16
_TEXTS_AT_ONCE = 2_000
_MOST_DRAWS = 1_000
_FRAME = 5
"""Room for the special tokens around a document and its summary, and one to spare."""

_KINDS = ("text", "news", "random")
_KIND_WEIGHTS = (35, 35, 30)
_SHARE_OF_FEW_WORDS = 0.6
_SHARE_OF_STUTTERS = 0.3
_SHARE_WITH_ECHOES = 0.4
_SHARE_OF_BARE_LEADS = 0.06
_SHARE_GOING_ON = 0.8
"""How many random first sentences are followed by more on their line, where they can be."""

_ENDINGS = (".", ".", ".", ".", ".", "!", "?", '."', '?"', ".)", "", ":")
_WORD_KINDS = ("plain", "capitalized", "number", "quoted", "abbreviation", "foreign", "noise")
_WORD_WEIGHTS = (42, 14, 12, 5, 4, 3, 20)
_NUMBERS = ("{:,}", "{}", "${}", "{}%", "({})", "{}-day", "${0}.{0}", "{0}{0}", "{0},{0}")
_ABBREVIATIONS = ("e.g.", "i.e.", "vs.", "St.", "Inc.", "Mr.", "Dr.", "No.", "J.", "w.r.t.", "v1.2")
_FOREIGN = "".join(
    (
        "\N{REGISTERED SIGN}\N{TRADE MARK SIGN}\N{EM DASH}\N{EN DASH}\N{HORIZONTAL ELLIPSIS}",
        "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHTWARDS ARROW}",
        "".join(map(chr, range(0xC0, 0x180))),  # Latin letters with marks
        "".join(map(chr, range(0x3B1, 0x450))),  # Greek and Cyrillic
        "".join(map(chr, range(0x4E00, 0x4F00))),  # Chinese
        "".join(map(chr, range(0x1F300, 0x1F6B0))),  # pictures
    )
)


@dataclass(frozen=True, slots=True)
class Example:
    """One document and its summary, in tokens."""

    document: list[int]
    summary: list[int]


class Examples:
    """Makes examples of any length from texts."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        news: Sequence[str],
        rng: random.Random,
    ) -> None:
        """Tokenize the texts.

        Args:
            tokenizer: The model's tokenizer.
            texts: Cleaned texts.
            news: Invented articles.
            rng: The source of all choices.
        """
        self._tokenizer = tokenizer
        self._rng = rng
        self._break: list[int] = tokenizer.encode("\n").ids * 2
        words = {word for text in texts[::7] for word in text.split()}
        self._words = sorted(word for word in words if len(word) <= _LONGEST_WORD)
        self._texts = _tokenized(tokenizer, texts)
        self._news = _tokenized(tokenizer, news)

    def make(self, length: int) -> Example:
        """Make an example whose prompt and answer take at most ``length`` tokens."""
        rng = self._rng
        kind, document, answer = self._draw(length, _KINDS, _KIND_WEIGHTS)
        if rng.random() < _SHARE_OF_BARE_LEADS:
            return Example(document[:answer], document[:answer])
        example = self._fill(document, answer, length - _FRAME - answer, kind)
        if rng.random() < _SHARE_WITH_ECHOES:
            return Example(self._echo(example.document, answer), example.summary)
        return example

    def make_plain(self, length: int, kind: str) -> Example:
        """Make an example of ``"text"`` or ``"news"`` without repeating pieces of it."""
        _, document, answer = self._draw(length, (kind,), (1,))
        return self._fill(document, answer, length - _FRAME - answer, kind)

    def _draw(
        self, length: int, kinds: Sequence[str], weights: Sequence[int]
    ) -> tuple[str, list[int], int]:
        for _ in range(_MOST_DRAWS):
            kind = self._rng.choices(kinds, weights)[0]
            document, answer = self._random_lead() if kind == "random" else self._lead(kind)
            if 2 * answer <= length - _FRAME:
                return kind, document, answer
        message = f"no first sentence of {kinds} fits twice into {length} tokens"
        raise ValueError(message)

    def _lead(self, kind: str) -> tuple[list[int], int]:
        return self._rng.choice(self._news if kind == "news" else self._texts)

    def _fill(self, document: list[int], answer: int, room: int, kind: str) -> Example:
        summary = document[:answer]
        while len(document) < room:
            document = [*document, *self._break, *self._lead(kind)[0]]
        return Example(document[:room], summary)

    def _random_lead(self) -> tuple[list[int], int]:
        rng = self._rng
        pool = [self._random_word() for _ in range(rng.randint(4, 24))]
        few = rng.random() < _SHARE_OF_FEW_WORDS

        def some_words(least: int, most: int) -> list[str]:
            if few:  # then only their order tells where a word of the sentence is
                return rng.choices(pool, k=rng.randint(least, most))
            return [self._random_word() for _ in range(rng.randint(least, most))]

        plain = " ".join(some_words(3, 24)).rstrip(".!?:")
        sentence = first_sentence(plain + rng.choice(_ENDINGS))
        ids = self._tokenizer.encode(sentence).ids
        following = self._break
        ends_by_itself = first_sentence(f"{sentence} a") == sentence
        if ends_by_itself and rng.random() < _SHARE_GOING_ON:
            following = self._tokenizer.encode(f" {' '.join(some_words(1, 60))}").ids
        return [*ids, *following], len(ids)

    def _random_word(self) -> str:
        rng = self._rng
        kinds: dict[str, Callable[[], str]] = {
            "plain": lambda: rng.choice(self._words),
            "capitalized": lambda: rng.choice(self._words).capitalize(),
            "number": lambda: rng.choice(_NUMBERS).format(rng.randint(0, 10 ** rng.randint(1, 5))),
            "quoted": lambda: f'"{rng.choice(self._words)}{rng.choice((",", ""))}"',
            "abbreviation": lambda: rng.choice(_ABBREVIATIONS),
            "foreign": lambda: "".join(rng.choices(_FOREIGN, k=rng.randint(1, 3))),
            "noise": self._noise,
        }
        return kinds[rng.choices(_WORD_KINDS, _WORD_WEIGHTS)[0]]()

    def _noise(self) -> str:
        first, last = len(SPECIAL_TOKENS), self._tokenizer.get_vocab_size() - 1
        tokens = [self._rng.randint(first, last) for _ in range(self._rng.randint(1, 3))]
        if self._rng.random() < _SHARE_OF_STUTTERS:  # as in "Yamamoto", or 44.44
            tokens = [*tokens, tokens[-1], self._rng.randint(first, last)]
        text = "".join(self._tokenizer.decode(tokens).split())
        return text.replace("\N{REPLACEMENT CHARACTER}", "") or "a"

    def _echo(self, document: list[int], answer: int) -> list[int]:
        rng = self._rng
        document = list(document)
        for _ in range(rng.randint(1, 3)):
            size = rng.randint(2, max(2, min(12, answer)))
            start = rng.randrange(max(1, answer - size + 1))
            piece = document[start : min(start + size, answer)]
            place = rng.randint(min(answer + 2, len(document)), len(document))
            document[place : place + size] = piece
        return document


def _tokenized(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[list[int], int]]:
    """Return each text's tokens, and how many of them are its first sentence."""
    found = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        wholes = tokenizer.encode_batch(list(some))
        sentences = tokenizer.encode_batch([first_sentence(text) for text in some])
        for whole, sentence in zip(wholes, sentences, strict=True):
            answer = len(sentence.ids)
            if whole.ids[:answer] == sentence.ids and answer <= _LONGEST_ANSWER:
                found.append((whole.ids, answer))
    return found
