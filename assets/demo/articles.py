"""Invented news of one small shop: the demo's articles, the same for the same seed and day.

The first sentence of every body is put together from names, numbers, goods and places,
and is unique within its day: two rows that change places show at once, since the
bundled summarizer answers with just that sentence. How rows become a file is in
:mod:`assets.demo.files`.
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from assets.demo.files import write_rows
from assets.models.lead_summarizer.reference import first_sentence

__all__ = ["articles", "write"]

_SHOP = "Fennel & Tide"
# fmt: off
_FIRST_NAMES = (
    "Amara", "Anselm", "Beatriz", "Bjorn", "Carmen", "Chidi", "Dagny", "Elio", "Farah", "Gustav",
    "Hana", "Ines", "Jonah", "Kaori", "Lucian", "Mireille", "Nadim", "Odalys", "Petra", "Quentin",
    "Rosalind", "Santiago", "Tamsin", "Ulrike", "Viktor", "Wanjiru", "Ximena", "Yusuf", "Zelda",
)
_LAST_NAMES = (
    "Abernathy", "Bellweather", "Castellanos", "Dubois", "Eriksen", "Farrow", "Greenhalgh",
    "Hollis", "Ibarra", "Jansson", "Kowalczyk", "Lindqvist", "Marchetti", "Novak", "Okonkwo",
    "Pemberton", "Quist", "Rosenthal", "Sandoval", "Thackeray", "Usman", "Vandermeer", "Whitlock",
    "Yamamoto", "Zielinski",
)
_MATERIALS = (
    "walnut", "copper", "linen", "enamel", "cast-iron", "porcelain", "bamboo", "slate", "beeswax",
    "stoneware", "olive-wood", "brass", "felt", "glass", "cork", "hemp",
)
_GOODS = (
    "kettles", "lanterns", "bread boxes", "tea caddies", "aprons", "salt cellars", "garden stools",
    "pepper mills", "candles", "picture frames", "mixing bowls", "wall clocks", "letter racks",
    "coffee grinders", "serving trays", "door bells", "window boxes", "recipe books",
    "umbrella stands", "jam jars",
)
_PLACES = (
    "Harbour Street", "Old Mill Lane", "the Saturday market", "Lower Quay", "St. Brannock Square",
    "the railway arches", "Cooper's Yard", "the north warehouse", "Bellfounder Row",
    "the castle gardens", "Pier 9", "the Ropewalk",
)
_TOWNS = (
    "Alderwick", "Brookhaven", "Carrowmere", "Dunmarsh", "Eastleigh Sands", "Fallowfield",
    "Greywater", "Holmbridge", "Inverlaith", "Kestrel Bay", "Longstone", "Marlow Cross",
)
_REASONS = (
    "after a mild autumn", "ahead of the holidays", "following months of requests",
    "to make room for spring stock", "because the workshop ran late", "despite the rain",
    "in time for the harvest fair", "for the first time in a decade", "as freight rates eased",
    "with help from the town council", "once the new kiln had cooled", "after a vote of the staff",
)
_OPINIONS = (
    "We counted them twice", "Nobody expected that", "It is a good problem to have",
    "Our neighbours did the rest", "I would do it again tomorrow",
    "The queue went round the corner", "You can smell the varnish from the street",
    "That is how my grandmother did it", "We are not in a hurry", "Next year we start earlier",
    "It took more tape than I planned",
)
_ROLES = (
    "owner", "buyer", "workshop lead", "book-keeper", "shop assistant", "driver", "apprentice",
    "window dresser",
)
_WEEKDAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)
# fmt: on

_MOST_SENTENCES = 22
_FEWEST_SENTENCES = 2
_SHARE_WITHOUT_AUTHOR = 0.15
_SHARE_OF_NEW_PARAGRAPHS = 0.3
_TOO_MANY_SENTENCES = 150
"""An article of this many sentences takes several thousand tokens, far over the model's 1,024."""


class _Words:
    """Picks the words of one article; who and what it is about stays the same throughout."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hero = self.person
        self.subject = self.goods
        self.home = self.town

    @property
    def person(self) -> str:
        return f"{self.rng.choice(_FIRST_NAMES)} {self.rng.choice(_LAST_NAMES)}"

    @property
    def goods(self) -> str:
        return f"{self.rng.choice(_MATERIALS)} {self.rng.choice(_GOODS)}"

    @property
    def place(self) -> str:
        return self.rng.choice(_PLACES)

    @property
    def town(self) -> str:
        return self.rng.choice(_TOWNS)

    @property
    def reason(self) -> str:
        return self.rng.choice(_REASONS)

    @property
    def opinion(self) -> str:
        return self.rng.choice(_OPINIONS)

    @property
    def role(self) -> str:
        return self.rng.choice(_ROLES)

    @property
    def weekday(self) -> str:
        return self.rng.choice(_WEEKDAYS)

    @property
    def count(self) -> str:
        return f"{self.rng.randint(12, 4_800):,}"

    @property
    def price(self) -> str:
        return f"${self.rng.randint(4, 240)}.{self.rng.choice(('00', '25', '50', '95'))}"

    @property
    def share(self) -> str:
        return f"{self.rng.randint(2, 85)}%"

    @property
    def clock(self) -> str:
        return f"{self.rng.randint(6, 21)}:{self.rng.randint(0, 59):02}"

    @property
    def years(self) -> str:
        return str(self.rng.randint(2, 60))

    @property
    def order(self) -> str:
        return str(self.rng.randint(10_000, 99_999))


_Sentence = Callable[[_Words], str]

_LEADS: tuple[_Sentence, ...] = (
    lambda w: (
        f"{_SHOP} sold {w.count} {w.subject} on {w.weekday}, "
        f"{w.share} more than a year ago, {w.reason}."
    ),
    lambda w: (
        f"A delivery of {w.count} {w.subject} from {w.home} "
        f"reached {w.place} at {w.clock} {w.reason}."
    ),
    lambda w: f"{w.hero}, {w.role} at {_SHOP}, has cut the price of {w.subject} to {w.price}.",
    lambda w: f'"{w.opinion}," said {w.hero} as the last of {w.count} {w.subject} left {w.place}.',
    lambda w: f"Who bought {w.count} {w.subject} in {w.home} on a single {w.weekday}?",
    lambda w: (
        f"{w.weekday} belonged to {w.hero} of {w.home}, "
        f"who carried home {w.count} {w.subject} for {w.price}!"
    ),
    lambda w: f"{w.subject.capitalize()} are back at {w.place} for {w.price}.",
    lambda w: f"{w.hero} retires as {w.role} {w.reason}.",
    lambda w: (
        f"{w.reason.capitalize()}, {_SHOP} will move its {w.subject} from {w.place} to {w.place}, "
        f"where {w.hero} plans to open at {w.clock} on {w.weekday}."
    ),
    lambda w: (
        f"The {w.subject} that {w.hero} made in {w.home} outsold the {w.goods} of {w.person} "
        f"by {w.count} to {w.count}, though returns rose by {w.share}."
    ),
    lambda w: (
        f"{w.hero} paid {w.price} back for {w.subject} "
        f"that a customer from {w.home} bought {w.years} years ago."
    ),
    lambda w: (
        f"{w.home} wants more {w.subject} and an answer from {w.hero} by {w.clock} on {w.weekday}."
    ),
    lambda w: (
        f"Order no {w.order} was for {w.count} {w.subject}, "
        f"and {w.hero} packed every one at {w.place}."
    ),
    lambda w: f'{w.hero} calls the new {w.subject} "a bargain at {w.price}."',
)
_DETAILS: tuple[_Sentence, ...] = (
    lambda w: (
        f"The {w.subject} come from a workshop in {w.town} "
        f"that {w.person} has run for {w.years} years."
    ),
    lambda w: f'"{w.opinion}," {w.person} said on {w.weekday}.',
    lambda w: f'"{w.opinion}," {w.hero} added.',
    lambda w: (
        f"At {w.place} the first visitors arrived at {w.clock}, most of them for the {w.goods}."
    ),
    lambda w: f"Each costs {w.price}, or {w.price} for two.",
    lambda w: f"{_SHOP} keeps {w.count} of them in stock and expects {w.count} more from {w.town}.",
    lambda w: f"Sales of {w.goods} fell by {w.share} over the same week.",
    lambda w: f"{w.person}, the {w.role}, put the difference down to the weather in {w.home}.",
    lambda w: f"Whoever brings an old one to {w.place} before {w.clock} gets {w.price} back.",
    lambda w: f"The shop was founded by {w.person} and {w.person}, who met at {w.place}.",
    lambda w: f"Would {w.goods} have done as well as {w.subject}?",
    lambda w: f"{w.person} of {w.town} doubts it.",
    lambda w: f"A second shipment, {w.count} {w.goods}, is due on {w.weekday} {w.reason}.",
    lambda w: (
        f"About {w.share} of the customers came from {w.home}, the rest from {w.town} and {w.town}."
    ),
    lambda w: f"The {w.role} has asked for a larger van.",
)
_TITLES: tuple[_Sentence, ...] = (
    lambda w: f"{w.subject.capitalize()} for {w.home}",
    lambda w: f"{w.hero} on {w.subject}",
    lambda w: f"{w.subject.capitalize()}: a {w.weekday} at {w.place}",
    lambda w: f"{w.hero} of {w.home}",
    lambda w: f"What {w.home} pays for {w.subject}",
)


def articles(
    day: date, *, count: int = 400, seed: int = 0, bad_rows: int = 0
) -> Iterator[dict[str, object]]:
    """Yield the shop's articles of one day.

    The fields are ``article_id``, ``title``, ``body``, ``language``, ``author`` (a
    string or null) and ``published_at`` (ISO 8601, UTC, within the day). Bodies take
    from about 60 to 700 tokens of the bundled summarizer, and no two of a day begin
    with the same sentence. A greater count only adds rows at the end.

    Args:
        day: The day that the articles appear on.
        count: How many good articles.
        seed: Another seed gives other articles under the same identifiers.
        bad_rows: How many rows to add that cannot be summarized: in turn without a
            body, with a number for a body, with a body longer than the bundled
            summarizer can take, and with an empty body.

    Yields:
        The good rows, then the bad ones.
    """
    leads: set[str] = set()
    for number in range(1, count + 1):
        rng = random.Random(f"{seed}:{day.isoformat()}:{number}")
        sentences = _sentence_count(rng)
        row = _row(rng, day, number, sentences)
        while (lead := first_sentence(str(row["body"]))) in leads:
            row = _row(rng, day, number, sentences)
        leads.add(lead)
        yield row
    for number in range(1, bad_rows + 1):
        rng = random.Random(f"{seed}:{day.isoformat()}:bad:{number}")
        yield _spoiled(_row(rng, day, count + number, _TOO_MANY_SENTENCES), rng, number)


def write(day: date, path: Path, *, count: int = 400, seed: int = 0, bad_rows: int = 0) -> int:
    """Write the rows of :func:`articles` to a JSON lines file and return how many they are."""
    return write_rows(articles(day, count=count, seed=seed, bad_rows=bad_rows), path)


def _row(rng: random.Random, day: date, number: int, sentences: int) -> dict[str, object]:
    words = _Words(rng)
    published = datetime.combine(day, time(), UTC) + timedelta(seconds=rng.randrange(24 * 60 * 60))
    return {
        "article_id": f"a-{day:%Y%m%d}-{number:04}",
        "title": rng.choice(_TITLES)(words),
        "body": _body(words, sentences),
        "language": "en",
        "author": None if rng.random() < _SHARE_WITHOUT_AUTHOR else words.person,
        "published_at": f"{published:%Y-%m-%dT%H:%M:%SZ}",
    }


def _body(words: _Words, sentences: int) -> str:
    rng = words.rng
    paragraphs = [[rng.choice(_LEADS)(words)]]
    for _ in range(sentences - 1):
        if rng.random() < _SHARE_OF_NEW_PARAGRAPHS:
            paragraphs.append([])
        paragraphs[-1].append(rng.choice(_DETAILS)(words))
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def _spoiled(row: dict[str, object], rng: random.Random, number: int) -> dict[str, object]:
    match number % 4:
        case 1:
            del row["body"]
        case 2:
            row["body"] = rng.randint(1_000, 9_999)
        case 3:
            pass  # it is too long as it is
        case _:
            row["body"] = ""
    return row


def _sentence_count(rng: random.Random) -> int:
    # Spread evenly on a logarithmic scale, as lengths of news are: many short, few long.
    stretch: float = (_MOST_SENTENCES / _FEWEST_SENTENCES) ** rng.random()
    return round(_FEWEST_SENTENCES * stretch)
