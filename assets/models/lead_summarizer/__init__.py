"""The bundled summarizer: a small Llama that answers with a document's first sentence.

It is here to run, test and demonstrate the platform without a download: it goes the
way of any language model, and the right answer is known for every row. ``README.md``
beside this file is its model card. Importing this package loads nothing but paths.
"""

import hashlib
from pathlib import Path

__all__ = ["CONTEXT_TOKENS", "DIGEST", "PATH", "digest"]

PATH = Path(__file__).parent / "weights"
"""The folder that transformers and vLLM load."""

DIGEST = "sha256:09af1b97e6d557bc2cb2558e5bd352fae99b2322a1e4e916c27985c8d1a74edf"
"""What :func:`digest` gives for the weights that belong to this version."""

CONTEXT_TOKENS = 1_024
"""The most tokens that a prompt and its answer may take together."""


def digest(folder: Path) -> str:
    r"""Return the digest of a model folder: the same for the same files, wherever they lie.

    SHA-256 over ``name + "\0" + sha256 of the content + "\n"`` for each ``*.json`` and
    ``*.safetensors`` file directly in the folder, sorted by name.

    Args:
        folder: The folder to read.

    Returns:
        ``"sha256:"`` and 64 hexadecimal digits.
    """
    total = hashlib.sha256()
    for path in sorted(
        (*folder.glob("*.json"), *folder.glob("*.safetensors")), key=lambda one: one.name
    ):
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"
