"""The demo data: invented articles that are the same everywhere, and real descriptions."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from assets.demo import articles as shop
from assets.demo import distributions
from assets.models import lead_summarizer
from assets.models.lead_summarizer.reference import clean, first_sentence, prompt

DAY = date(2026, 11, 20)
FIELDS = {"article_id", "title", "body", "language", "author", "published_at"}
LONGEST_ANSWER = 128


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(lead_summarizer.PATH / "tokenizer.json"))


@pytest.fixture(scope="module")
def day_of_news() -> list[dict[str, object]]:
    return list(shop.articles(DAY))


@pytest.fixture(scope="module")
def descriptions() -> list[dict[str, object]]:
    return list(distributions.documents(DAY))


def assert_is_a_row(row: dict[str, object]) -> None:
    assert set(row) == FIELDS
    for field in FIELDS - {"author"}:
        assert isinstance(row[field], str), field
        assert row[field], field
    assert row["author"] is None or isinstance(row["author"], str)
    assert row["language"] == "en"
    published = datetime.strptime(str(row["published_at"]), "%Y-%m-%dT%H:%M:%SZ").replace(
        tzinfo=UTC
    )
    assert published.date() == DAY


def test_same_day_and_seed_give_the_same_articles(day_of_news: list[dict[str, object]]) -> None:
    assert list(shop.articles(DAY)) == day_of_news


def test_another_day_or_seed_gives_other_bodies(day_of_news: list[dict[str, object]]) -> None:
    bodies = {row["body"] for row in day_of_news}
    assert bodies.isdisjoint(row["body"] for row in shop.articles(DAY, seed=1))
    assert bodies.isdisjoint(row["body"] for row in shop.articles(date(2026, 11, 21)))


def test_a_greater_count_only_adds_articles(day_of_news: list[dict[str, object]]) -> None:
    assert list(shop.articles(DAY, count=25)) == day_of_news[:25]


def test_a_day_has_400_whole_articles(day_of_news: list[dict[str, object]]) -> None:
    assert len(day_of_news) == 400
    for row in day_of_news:
        assert_is_a_row(row)


def test_identifiers_and_first_sentences_are_unique(day_of_news: list[dict[str, object]]) -> None:
    assert len({row["article_id"] for row in day_of_news}) == len(day_of_news)
    assert len({first_sentence(str(row["body"])) for row in day_of_news}) == len(day_of_news)


def test_lengths_vary_tenfold_and_fit_the_model(
    day_of_news: list[dict[str, object]], tokenizer: Tokenizer
) -> None:
    lengths = [len(tokenizer.encode(prompt(str(row["body"]))).ids) for row in day_of_news]
    assert max(lengths) >= 10 * min(lengths)
    assert max(lengths) + LONGEST_ANSWER <= lead_summarizer.CONTEXT_TOKENS


def test_first_sentences_fit_the_answer(
    day_of_news: list[dict[str, object]], tokenizer: Tokenizer
) -> None:
    answers = [len(tokenizer.encode(first_sentence(str(row["body"]))).ids) for row in day_of_news]
    assert max(answers) < LONGEST_ANSWER


def test_some_articles_name_no_author(day_of_news: list[dict[str, object]]) -> None:
    anonymous = sum(row["author"] is None for row in day_of_news)
    assert 20 < anonymous < 120


def test_articles_are_prose_already(day_of_news: list[dict[str, object]]) -> None:
    assert [row for row in day_of_news if clean(str(row["body"])) != row["body"]] == []


def test_bad_rows_follow_the_good_ones_and_are_bad_in_four_ways(
    day_of_news: list[dict[str, object]], tokenizer: Tokenizer
) -> None:
    rows = list(shop.articles(DAY, bad_rows=4))
    assert rows[:400] == day_of_news
    missing, wrong_type, too_long, empty = rows[400:]
    assert "body" not in missing
    assert isinstance(wrong_type["body"], int)
    assert len(tokenizer.encode(prompt(str(too_long["body"]))).ids) > lead_summarizer.CONTEXT_TOKENS
    assert empty["body"] == ""
    assert len({row["article_id"] for row in rows}) == 404


def test_articles_are_written_as_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "landing" / "articles" / "2026-11-20" / "articles.jsonl"
    assert shop.write(DAY, path, count=12, seed=3, bad_rows=1) == 13
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == list(shop.articles(DAY, count=12, seed=3, bad_rows=1))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_there_are_150_real_documents_or_more(descriptions: list[dict[str, object]]) -> None:
    assert len(descriptions) >= 150
    for row in descriptions:
        assert_is_a_row(row)
        assert str(row["article_id"]).startswith("pypi-")
    identifiers = [row["article_id"] for row in descriptions]
    assert identifiers == sorted(set(map(str, identifiers)))


def test_real_documents_fit_the_model(
    descriptions: list[dict[str, object]], tokenizer: Tokenizer
) -> None:
    too_long = [
        row["article_id"]
        for row in descriptions
        if len(tokenizer.encode(prompt(str(row["body"]))).ids) + LONGEST_ANSWER
        > lead_summarizer.CONTEXT_TOKENS
    ]
    assert too_long == []


def test_real_documents_are_written_as_json_lines(
    descriptions: list[dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / "distributions.jsonl"
    assert distributions.write(DAY, path) == len(descriptions)
    assert [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ] == descriptions
