"""The inputs: what producers land, and the contract each of their rows must keep."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pandera.polars as pandera
import polars as pl

from overnight.contract import Contract, Field, Timestamp
from overnight.landing import Source

TIMEZONE = "Europe/Berlin"
"""Where the shop is: its days begin and end at midnight there."""


def in_the_morning(hour: int) -> dt.time:
    """By when people look at a table of the day before."""
    return dt.time(hour, tzinfo=ZoneInfo(TIMEZONE))


EVENT_WEIGHTS = {"visit": 0, "view": 1, "cart": 3, "purchase": 5}
"""What a visitor of the shop can do, and how much it says of his taste."""


class Article(Contract):
    """An article of the shop's magazine, as its editors export it each day."""

    article_id: str = Field(description="The editors' id.", str_length={"min_value": 1})
    title: str = Field(description="The headline.")
    body: str = Field(description="The text, in prose or Markdown.")
    language: str = Field(description="ISO 639-1 code.", str_matches="^[a-z]{2}$")
    author: str | None = Field(description="Who wrote it, if known.")
    published_at: Timestamp = Field(description="When it went online.")


class Transaction(Contract):
    """A card payment, as the payment provider exports them each day."""

    transaction_id: str = Field(description="The provider's id.", str_length={"min_value": 1})
    occurred_at: Timestamp = Field(description="When the card was used, within the day.")
    customer_id: str = Field(description="Whose card it was.", str_length={"min_value": 1})
    terminal_id: str = Field(description="Where it was used; one of `terminals`.")
    amount: float = Field(description="What was paid, in euros.", ge=0)


class FraudLabel(Contract):
    """A report on a transaction of some days ago; the newest report on each one counts."""

    transaction_id: str = Field(description="The transaction that it is about.")
    transaction_date: pl.Date = Field(description="The day that this transaction landed on.")
    fraud: bool = Field(description="Whether it was fraud; false withdraws an earlier report.")
    reported_at: Timestamp = Field(description="When it was reported.")


class Terminal(Contract):
    """A terminal that cards can be used at; lands when there are new ones."""

    terminal_id: str = Field(description="The provider's id.", str_length={"min_value": 1})


class DocumentChange(Contract):
    """A change of one of the shop's documents: a new text, or that it is gone."""

    doc_id: str = Field(description="The document's id.", str_length={"min_value": 1})
    text: str | None = Field(
        description="The whole new text; none if it was deleted.",
        str_length={"max_value": 1_000_000},
    )
    updated_at: Timestamp = Field(description="When it changed; the newest change counts.")
    deleted: bool = Field(description="Whether the document is gone.")

    @pandera.check("text", ignore_na=False)
    @classmethod
    def a_document_that_is_not_deleted_has_a_text(cls, data: pandera.PolarsData) -> pl.LazyFrame:
        """A document has a text, not only white space, unless it is deleted."""
        has_text = pl.col("text").str.contains(r"\S").fill_null(value=False)
        return data.lazyframe.select(pl.col("deleted") | has_text)


class Interaction(Contract):
    """Something that a visitor of the shop did, as the web site records it."""

    user_id: str = Field(description="Who: the customer's id.", str_length={"min_value": 1})
    item_id: int | None = Field(description="With which item; none for a mere visit.", ge=0)
    event: str = Field(
        description=f"What: one of {', '.join(EVENT_WEIGHTS)}.", isin=list(EVENT_WEIGHTS)
    )
    timestamp: Timestamp = Field(description="When, within the day.")

    @pandera.dataframe_check
    @classmethod
    def only_a_visit_is_without_an_item(cls, data: pandera.PolarsData) -> pl.LazyFrame:
        """A visit has no item, and every other event has one."""
        mere = pl.col("event") == "visit"
        return data.lazyframe.select(mere == pl.col("item_id").is_null())


articles = Source(name="articles", contract=Article, key="article_id")
# Landed files are changes, so a document may have several rows: what a row is, its place tells.
documents = Source(name="documents", contract=DocumentChange, key="doc_id")
transactions = Source(name="transactions", contract=Transaction, key="transaction_id")
fraud_labels = Source(name="fraud_labels", contract=FraudLabel, key="transaction_id")
terminals = Source(name="terminals", contract=Terminal, key="terminal_id")
# Somebody does many things in a day: what a row is, its place tells.
interactions = Source(name="interactions", contract=Interaction, key="user_id")
