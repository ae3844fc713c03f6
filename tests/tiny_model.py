"""Makes a tiny Llama with random weights and a byte-level tokenizer, for tests of real engines.

Deterministic in its seed: the same arguments give the same weights. Its texts are noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"


def make_tiny_model(
    path: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 2,
    context: int = 256,
    seed: int = 0,
) -> Path:
    """Write a model directory that vLLM and transformers load; returns it.

    Args:
        path: the directory to write; made if missing.
        hidden: width of the model; its feed-forward part is 8/3 as wide.
        layers: decoder layers.
        heads: attention heads, as many for keys and values.
        context: longest sequence, in tokens (a token is a byte of text).
        seed: of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(path, context)
    config = LlamaConfig(
        vocab_size=-(-vocabulary // 64) * 64,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        # Larger than usual: random logits then differ enough for greedy choices to be stable.
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.to(torch.float32).save_pretrained(path)
    return path


def _write_tokenizer(path: Path, context: int) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([BOS, EOS, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=context,
    ).save_pretrained(path)
    return len(vocabulary)
