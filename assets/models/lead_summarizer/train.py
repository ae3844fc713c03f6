"""Train the bundled summarizer from nothing, on two processor cores.

    python -m assets.models.lead_summarizer.train --output FOLDER

It learns one thing: to copy the first sentence of a document of up to 1,024 tokens and
to stop. What it practises on is in :mod:`assets.models.lead_summarizer.examples`.
Everything is seeded, but the arithmetic of another machine may round another way and
other packages are other texts, so a model that is trained again has another digest:
put what this prints into ``DIGEST``.
"""

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import torch  # noqa: TID253 - this script is what torch is for
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (  # noqa: TID253 - as above
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from assets.demo.articles import articles
from assets.models.lead_summarizer import CONTEXT_TOKENS, digest
from assets.models.lead_summarizer.corpus import descriptions, docstrings, is_held_out
from assets.models.lead_summarizer.examples import Example, Examples
from assets.models.lead_summarizer.reference import (
    BEGIN,
    DOCUMENT,
    END,
    PADDING,
    SPECIAL_TOKENS,
    SUMMARY,
)

_LOGGER = logging.getLogger(__name__)

_VOCABULARY = 4_096
_IDS = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
_TOKENS_PER_STEP = 6_144
_LEARNING_RATE = 2e-3
_WARM_UP_STEPS = 150
_CURRICULUM = ((96, 900), (160, 400), (320, 350), (640, 350), (CONTEXT_TOKENS - 8, 1_900))
"""Greatest length in tokens, and for how many steps."""
_STEPS = sum(steps for _, steps in _CURRICULUM)
_SHORTEST_NEWS = 64
_STEPS_BETWEEN_CHECKPOINTS = 200
_STEPS_BETWEEN_REPORTS = 25


def make_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Train the byte-level BPE tokenizer; it adds no special token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def make_model() -> LlamaForCausalLM:
    """Make the untrained model: a Llama of 2.1 million parameters."""
    return LlamaForCausalLM(  # type: ignore[no-untyped-call]
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=6,
            head_dim=32,
            max_position_embeddings=CONTEXT_TOKENS,
            tie_word_embeddings=True,
            bos_token_id=_IDS[BEGIN],
            eos_token_id=_IDS[END],
            pad_token_id=_IDS[PADDING],
        )
    )


def batches(
    examples: Examples, rng: random.Random, *, first_step: int = 0
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield the curriculum: a length limit, token ids, and a mask of the positions to predict.

    Both tensors have the shape (sequences, tokens). The sequences of a batch are of
    similar length, so little of a batch is padding.
    """
    limits = [limit for limit, steps in _CURRICULUM for _ in range(steps)]
    for limit in limits[first_step:]:
        longest = rng.randint(min(64, limit // 2), limit)
        rows, answers = [], []
        for _ in range(_TOKENS_PER_STEP // longest):
            example = examples.make(rng.randint(longest * 3 // 4, longest))
            rows.append(_whole(example))
            answers.append(len(example.summary) + 1)
        width = max(map(len, rows))
        ids = torch.tensor([row + [_IDS[PADDING]] * (width - len(row)) for row in rows])
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for index, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            mask[index, len(row) - answer - 1 : len(row) - 1] = True
        yield limit, ids, mask


def _whole(example: Example) -> list[int]:
    question = [_IDS[BEGIN], _IDS[DOCUMENT], *example.document, _IDS[SUMMARY]]
    return [*question, *example.summary, _IDS[END]]


def train(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    unseen: Sequence[str],
    *,
    seed: int,
    output: Path,
    first_step: int = 0,
) -> None:
    """Train a model, and save it from time to time and in the end.

    Args:
        model: The model, changed in place.
        tokenizer: Its tokenizer.
        texts: Cleaned texts to train on.
        unseen: Cleaned texts to measure on.
        seed: Decides every batch.
        output: The folder to save to.
        first_step: Where in the curriculum to begin, if the model was trained before.
    """
    rng = random.Random(seed + first_step)  # noqa: S311 - training data, not a secret
    examples = Examples(tokenizer, texts, invented_news(unseen=False), rng)
    optimizer = _optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: _rate(n, first_step))
    started = time.monotonic()
    right = total = 0
    stream = batches(examples, rng, first_step=first_step)
    for step, (limit, ids, mask) in enumerate(stream, start=first_step + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[mask])
        targets = ids[:, 1:][mask[:, :-1]]
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        right += int((logits.argmax(-1) == targets).sum())
        total += len(targets)
        if step % _STEPS_BETWEEN_REPORTS == 0:
            _LOGGER.info(
                "step %d of %d, up to %d tokens, loss %.4f, token accuracy %.4f, %.0f s",
                *(step, _STEPS, limit, loss.item(), right / total, time.monotonic() - started),
            )
            right = total = 0
        if step % _STEPS_BETWEEN_CHECKPOINTS == 0 or step == _STEPS:
            save(model, tokenizer, output)
            tests = unseen_examples(tokenizer, unseen, limit)
            _LOGGER.info(
                "exact on unseen documents of up to %d tokens: %.3f of texts, %.3f of news",
                *(limit, exactness(model, tests[::2])),
                exactness(model, tests[1::2]),
            )


def _optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=_LEARNING_RATE, betas=(0.9, 0.98), fused=True)


def _rate(steps_done: int, first_step: int) -> float:
    """Return the share of the learning rate: a linear warm-up, and a cosine over all steps."""
    warm_up = min(1.0, (steps_done + 1) / _WARM_UP_STEPS)
    progress = max(0, first_step + steps_done - _WARM_UP_STEPS) / (_STEPS - _WARM_UP_STEPS)
    return warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def unseen_examples(tokenizer: Tokenizer, unseen: Sequence[str], limit: int) -> list[Example]:
    """Make 96 examples from unseen texts, of lengths up to a limit."""
    rng = random.Random(0)  # noqa: S311 - as above
    made = Examples(tokenizer, unseen, invented_news(unseen=True), rng)
    shortest = max(_SHORTEST_NEWS, limit // 4)
    lengths = [rng.randint(shortest, max(shortest, limit * 4 // 5)) for _ in range(48)]
    return [made.make_plain(length, kind) for length in lengths for kind in ("text", "news")]


def invented_news(*, unseen: bool) -> list[str]:
    """Return bodies of the demo's generator, of days and a seed that no demo uses."""
    seed, days = (2, 1) if unseen else (1, 25)
    first = date(1970, 1, 1)
    rows = [row for n in range(days) for row in articles(first + timedelta(n), seed=seed)]
    return [str(row["body"]) for row in rows]


@torch.inference_mode()
def exactness(model: LlamaForCausalLM, examples: Sequence[Example]) -> float:
    """Return the share of examples whose greedy answer is exactly the summary.

    A greedy answer is exact if and only if every token of the right answer is the most
    likely one after those before it, so one forward pass tells.
    """
    exact = 0
    for example in examples:
        ids = torch.tensor([_whole(example)])
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        answer = len(example.summary) + 1
        logits = model.lm_head(hidden[0, -answer - 1 : -1])
        exact += bool((logits.argmax(-1) == ids[0, -answer:]).all())
    return exact / len(examples)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, output: Path) -> None:
    """Save the model as float32, and its tokenizer, so that transformers and vLLM load them."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=_IDS[BEGIN],
        eos_token_id=_IDS[END],
        pad_token_id=_IDS[PADDING],
        do_sample=False,
    )
    model.save_pretrained(output)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=[DOCUMENT, SUMMARY],
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(output)


def main() -> None:
    """Train with the settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="the folder to save the model to"
    )
    parser.add_argument(
        "--corpus", type=Path, help="a JSON list of cleaned texts; made and kept there if missing"
    )
    parser.add_argument(
        "--first-step",
        type=int,
        default=0,
        help="go on with the weights in the output folder, from this step of the curriculum",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.corpus and options.corpus.exists():
        texts = json.loads(options.corpus.read_text(encoding="utf-8"))
    else:
        texts = [*docstrings(), *descriptions()]
        if options.corpus:
            options.corpus.write_text(json.dumps(texts), encoding="utf-8")
    known = [text for text in texts if not is_held_out(text)]
    unseen = [text for text in texts if is_held_out(text)]
    _LOGGER.info("%d texts to train on, %d kept apart", len(known), len(unseen))
    torch.manual_seed(options.seed)
    if options.first_step:
        tokenizer = Tokenizer.from_file(str(options.output / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(options.output, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(known[::4])
        model = make_model()
    train(
        model,
        tokenizer,
        known,
        unseen,
        seed=options.seed,
        output=options.output,
        first_step=options.first_step,
    )
    print(digest(options.output))


if __name__ == "__main__":
    main()
