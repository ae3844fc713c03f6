"""Daily summaries: one sentence for each article of a day, by a language model on vLLM."""

from __future__ import annotations

from typing import Any

from assets.models import lead_summarizer
from assets.models.lead_summarizer.reference import ask, clean
from assets.sources import articles, in_the_morning
from overnight.contract import Contract, Field, Timestamp
from overnight.engines.vllm import VllmGenerate
from overnight.expectations import Expectations, TextOutput
from overnight.job import EmptyOutput, InferenceJob, each_result, each_row
from overnight.model import ModelRef

_bundled = ModelRef(uri=str(lead_summarizer.PATH), digest=lead_summarizer.DIGEST)
summary_model = ModelRef.from_env("SUMMARY_MODEL", default=_bundled)


class DailySummary(Contract):
    """One summary for each article of a day."""

    article_id: str = Field(description="The article; key of the source `articles`.")
    title: str = Field(description="The article's headline.")
    language: str = Field(description="The article's language, ISO 639-1.")
    published_at: Timestamp = Field(description="When the article went online.")
    summary: str = Field(
        description="What the article says, in one sentence.", str_length={"min_value": 1}
    )
    truncated: bool = Field(description="Whether the summary stopped at the token limit.")
    output_tokens: int = Field(description="Tokens that the model generated.", ge=0)


@each_row
def summary_prompt(article: dict[str, Any]) -> str:
    """Ask for the summary of an article's body; nothing to say of one without words."""
    prose = clean(article["body"])
    return ask(prose) if prose else ""


@each_result
def parse_summary(result: dict[str, Any]) -> dict[str, Any]:
    """Take the model's text as the summary."""
    summary = result["text"].strip()
    if not summary:
        raise EmptyOutput("the model generated no text")
    return {"summary": summary, "truncated": result["finish_reason"] == "length"}


daily_summaries = InferenceJob(
    name="daily_summaries",
    source=articles,
    engine=VllmGenerate(
        model=summary_model,
        max_tokens=128,
        temperature=0.0,
        # The bundled model takes its words from the article; measure it with yours.
        speculative_tokens=4 if summary_model == _bundled else 0,
    ),
    prepare=summary_prompt,
    parse=parse_summary,
    output=DailySummary,
    expects=Expectations(
        text=TextOutput(column="summary", truncated="truncated"), due=in_the_morning(6)
    ),
)
