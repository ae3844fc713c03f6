"""The inputs: what producers land, and the contract each of their rows must keep."""

from __future__ import annotations

from overnight.contract import Contract, Field, Timestamp
from overnight.landing import Source


class Article(Contract):
    """An article of the shop's magazine, as its editors export it each day."""

    article_id: str = Field(description="The editors' id.", str_length={"min_value": 1})
    title: str = Field(description="The headline.")
    body: str = Field(description="The text, in prose or Markdown.")
    language: str = Field(description="ISO 639-1 code.", str_matches="^[a-z]{2}$")
    author: str | None = Field(description="Who wrote it, if known.")
    published_at: Timestamp = Field(description="When it went online.")


articles = Source(name="articles", contract=Article, key="article_id")
