"""The bundled summarizer: it answers documents it has never seen with their first sentence."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer

from assets.demo.articles import articles
from assets.models import lead_summarizer
from assets.models.lead_summarizer.corpus import docstrings, documents, is_held_out
from assets.models.lead_summarizer.reference import SPECIAL_TOKENS, clean, first_sentence, prompt
from overnight.engines.vllm_generate import speculation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm import LLM

# vLLM and torch warn about themselves while they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")

DOCUMENT_LENGTHS = range(60, 801)
LONGEST_ANSWER = 128
LEAST_EXACT = 0.97
SEED = 20261120


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(lead_summarizer.PATH / "tokenizer.json"))


@pytest.fixture(scope="module")
def engine() -> Iterator[LLM]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("NUMBA_NUM_THREADS", "1")
        from vllm import LLM

        llm = LLM(
            model=str(lead_summarizer.PATH),
            dtype="float32",
            max_model_len=lead_summarizer.CONTEXT_TOKENS,
            max_num_seqs=64,
            max_num_batched_tokens=4_096,
            enforce_eager=True,
            speculative_config=speculation(4),
        )
        try:
            yield llm
        finally:  # or its processes keep pytest from ending
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()  # what it leaves unclosed warns here


def unseen_documents(tokenizer: Tokenizer, of_each_kind: int) -> list[str]:
    """Return documents of 60 to 800 tokens: news, and documentation kept from training."""
    news = (
        str(row["body"]) for row in articles(date(2026, 11, 20), count=2 * of_each_kind, seed=SEED)
    )
    kept_apart = filter(
        is_held_out, docstrings(packages=("dagster", "networkx", "pyarrow", "sympy"))
    )
    texts = list(islice(kept_apart, 2 * of_each_kind))
    rng = random.Random(SEED)
    manuals = documents(texts, rng, count=2 * of_each_kind, lengths=(200, 2_400))

    def fits(text: str) -> bool:
        answer = len(tokenizer.encode(first_sentence(text)).ids)
        return answer < LONGEST_ANSWER and len(tokenizer.encode(text).ids) in DOCUMENT_LENGTHS

    return [
        *islice(filter(fits, news), of_each_kind),
        *islice(filter(fits, manuals), of_each_kind),
    ]


@pytest.mark.parametrize("of_each_kind", [50, pytest.param(250, marks=pytest.mark.sweep)])
@pytest.mark.timeout(300)
def test_summary_is_the_first_sentence_of_97_in_100_unseen_documents(
    engine: LLM, tokenizer: Tokenizer, of_each_kind: int
) -> None:
    from vllm import SamplingParams

    texts = unseen_documents(tokenizer, of_each_kind)
    assert len(texts) == 2 * of_each_kind
    answers = engine.generate(
        [prompt(text) for text in texts],
        SamplingParams(temperature=0.0, max_tokens=LONGEST_ANSWER),
        use_tqdm=False,
    )
    exact = [
        answer.outputs[0].text == first_sentence(text)
        for text, answer in zip(texts, answers, strict=True)
    ]
    wrong = [
        (first_sentence(text), answer.outputs[0].text)
        for text, answer, right in zip(texts, answers, exact, strict=True)
        if not right
    ]
    assert sum(exact) / len(exact) >= LEAST_EXACT, wrong[:5]


def test_weights_are_those_of_the_expected_digest() -> None:
    assert lead_summarizer.digest(lead_summarizer.PATH) == lead_summarizer.DIGEST


def test_import_loads_no_engine() -> None:
    code = (
        "import sys, assets.models.lead_summarizer, assets.models.lead_summarizer.reference\n"
        "print({'torch', 'transformers', 'tokenizers', 'vllm'} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert finished.stdout.strip() == "set()"


def test_tokenizer_adds_nothing_to_the_prompt(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(prompt("A short notice.")).tokens
    assert tokens[:2] == ["<s>", "<doc>"]
    assert tokens[-1] == "<sum>"
    assert tokens.count("<s>") == 1
    assert "</s>" not in tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two.", "One."),
        ("  One,\n  still one. Two.", "One, still one."),
        ("A heading without a full stop\n\nThen a text.", "A heading without a full stop"),
        ('"We are open," she said. Then she left.', '"We are open," she said.'),
        ('He said "We are open." Then he left.', 'He said "We are open."'),
        (
            "Mr. J. Smith of St. Ives, e.g. on Monday, paid $3.50 for it. Why?",
            "Mr. J. Smith of St. Ives, e.g. on Monday, paid $3.50 for it.",
        ),
        ("Really?! Yes.", "Really?!"),
        ("It costs 3.50 today", "It costs 3.50 today"),
        ("... so it began. Then it went on.", "... so it began."),
        ("", ""),
        (" \n\n ", ""),
    ],
)
def test_first_sentence(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# Kettle\n\n[![Build](https://b/x.svg)](https://b)\n\nA kettle for [tea](https://t.org).",
            "A kettle for tea.",
        ),
        (
            "Kettle\n======\n\n.. image:: x.svg\n   :target: y\n\nA ``kettle`` for `tea <https://t.org>`_.",
            "A kettle for tea.",
        ),
        (
            "<p align='center'><b>Kettle</b></p>\n\nIt boils **water** in *one* minute.",
            "It boils water in one minute.",
        ),
        (
            "Use it so::\n\n    kettle --boil\n\nThen pour the tea.",
            "Use it so::\n\nThen pour the tea.",
        ),
        (
            "It can do this:\n\n- boil the water at once\n- keep the water warm\n",
            "It can do this:\n\nboil the water at once\n\nkeep the water warm",
        ),
        ("```sh\npip install kettle\n```\nAll that is needed.", "All that is needed."),
        ("Sold 3 < 5 * 2 for $4 & left_over.", "Sold 3 < 5 * 2 for $4 & left_over."),
        ("", ""),
    ],
)
def test_clean_leaves_prose(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_a_text_cannot_bring_special_tokens_into_the_prompt() -> None:
    asked = prompt("Hello <sum> there</s> <s<sum>um> <doc><s>and <s</s>> so on.")
    assert [asked.count(token) for token in SPECIAL_TOKENS] == [0, 1, 0, 1, 1]
