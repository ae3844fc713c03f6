"""What the bundled summarizer is asked, and the right answer to it.

This module belongs to both sides of the model: training, the tests and the demo
data take the right answer from :func:`first_sentence`, and the summaries job makes
its prompts with :func:`ask`. It uses the standard library alone. How the model is
trained or run does not belong here.
"""

import re

__all__ = [
    "BEGIN",
    "DOCUMENT",
    "END",
    "SPECIAL_TOKENS",
    "SUMMARY",
    "ask",
    "clean",
    "first_sentence",
    "prompt",
]

BEGIN = "<s>"
END = "</s>"
DOCUMENT = "<doc>"
SUMMARY = "<sum>"
PADDING = "<pad>"
SPECIAL_TOKENS = (PADDING, BEGIN, END, DOCUMENT, SUMMARY)

_SENTENCE_END = re.compile(r"[.!?]+[\"'”\u2019)\]]*(?=\s|$)")
_NOT_AN_END = re.compile(
    r"(?:^|[\s(\[\"'“\u2018])(?:e\.g|i\.e|vs|cf|approx|Mr|Mrs|Ms|Dr|Prof|St|No|Inc|Ltd|Co|[A-Z])\.$"
)
_LETTER = re.compile(r"\w")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, on one line.

    A sentence ends at ``.``, ``!`` or ``?`` (and the quotes or brackets that close
    with it) before white space, unless the full stop belongs to a common abbreviation
    or an initial; or it ends with its paragraph, at the first blank line.

    Args:
        text: Prose; markup is best removed by :func:`clean` before.

    Returns:
        The sentence with its white space collapsed; empty if the text is blank.
    """
    paragraph = " ".join(_BLANK_LINE.split(text.strip(), maxsplit=1)[0].split())
    for match in _SENTENCE_END.finditer(paragraph):
        sentence = paragraph[: match.end()]
        if _LETTER.search(sentence) and not _NOT_AN_END.search(sentence):
            return sentence
    return paragraph


# Markup that stands for something else than prose: dropped with its content.
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1[^\n]*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_DIRECTIVE = re.compile(r"^([ \t]*)\.\. [^\n]*(?:\n(?:\1[ \t]+[^\n]*|[ \t]*(?=\n)))*", re.MULTILINE)
_LITERAL_BLOCK = re.compile(r"(?<=::)[ \t]*\n(?:[ \t]*\n)+(?:[ \t]+[^\n]*\n|[ \t]*\n)+")
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t][^\n]*$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?:[^\S\n]*\S[^\n]*\n)?[ \t]*([=\-~^*#+])\1{2,}[ \t]*$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[ \t]*(?:\|.*\||[+=\-| ]{4,})[ \t]*$", re.MULTILINE)
_LINK_TARGET = re.compile(r"^[ \t]*\[[^\]\n]+\]:[^\n]*$", re.MULTILINE)
_SESSION = re.compile(r"^[ \t]*(?:>>>|\$)[ \t][^\n]*$(?:\n[ \t]*\.\.\.[^\n]*)*", re.MULTILINE)
_FIELD = re.compile(r"^[ \t]*:[\w \-]+:(?:[ \t][^\n]*)?$", re.MULTILINE)
_IMAGE = re.compile(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?")
_SUBSTITUTION = re.compile(r"\|[\w .\-]+\|_?")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,300}>")
# Markup around prose: replaced by that prose.
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]+)>")
_LINK = re.compile(
    r"\[([^\[\]]*)\](?:\([^()\s]*(?:\([^()]*\)[^()\s]*)*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])"
)
_RST_LINK = re.compile(r"`([^`<>]+?)\s*<[^`<>]+>`_{1,2}")
_ROLE = re.compile(r":[\w:+.\-]+:`~?([^`]+)`")
_REFERENCE = re.compile(r"\b([A-Za-z]\w*[^\W_])_(?=[\s.,;:)]|$)")
_CODE = re.compile(r"``?([^`]+)``?_{0,2}")
_STRONG = re.compile(r"(\*\*\*|\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])")
_UNDERSCORED = re.compile(r"(?<!\w)_(?=\S)([^_\n]+?)(?<=\S)_(?!\w)")
_BULLET = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,2}[.)])[ \t]+(?=\S)", re.MULTILINE)
_QUOTE_MARK = re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE)

_DROPPED = (
    _FENCE,
    _COMMENT,
    _DIRECTIVE,
    _LITERAL_BLOCK,
    _HEADING,
    _UNDERLINED,
    _TABLE_ROW,
    _LINK_TARGET,
    _SESSION,
    _FIELD,
)
_UNWRAPPED = (
    (_IMAGE, ""),
    (_RST_LINK, r"\1"),
    (_AUTOLINK, r"\1"),
    (_LINK, r"\1"),
    (_LINK, r"\1"),  # a badge is a link around an image, so links nest once
    (_ROLE, r"\1"),
    (_CODE, r"\1"),
    (_REFERENCE, r"\1"),
    (_STRONG, r"\2"),
    (_EMPHASIS, r"\1"),
    (_UNDERSCORED, r"\1"),
    (_SUBSTITUTION, ""),
    (_TAG, " "),
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_ADDRESS = re.compile(r"\w+://\S+")
_FEWEST_WORDS = 3
_MOST_PASSES = 5


def clean(text: str) -> str:
    r"""Reduce Markdown, reStructuredText or HTML to the prose in it.

    Headings, badges, images, code blocks, directives and tables go; links, roles and
    emphasis leave their words. Paragraphs and list items remain, one line each, with a
    blank line between them. Prose comes back unchanged but for its white space.

    Args:
        text: A document body.

    Returns:
        Paragraphs joined by ``"\n\n"``, without any of :data:`SPECIAL_TOKENS`. Empty
        only if the text holds nothing to read.
    """
    for _ in range(_MOST_PASSES):  # what is unwrapped may itself be markup
        text, before = _clean_once(text), text
        if text == before:
            break
    return text


def _clean_once(text: str) -> str:
    prose = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    for pattern in _DROPPED:
        prose = pattern.sub("\n\n", prose)
    for pattern, replacement in _UNWRAPPED:
        prose = pattern.sub(replacement, prose)
    prose = _QUOTE_MARK.sub("", prose)
    prose = _BULLET.sub("\n", prose)
    paragraphs = [" ".join(paragraph.split()) for paragraph in _BLANK_LINE.split(prose)]
    kept = (
        [p for p in paragraphs if _is_prose(p)]
        or [p for p in paragraphs if _LETTER.search(p)]
        or [" ".join(text.split())]
    )
    return _without_special_tokens("\n\n".join(kept)).strip()


def _is_prose(paragraph: str) -> bool:
    words = len(_WORD.findall(_ADDRESS.sub("", paragraph)))
    return words >= _FEWEST_WORDS or (words > 0 and paragraph.endswith((".", "!", "?")))


def _without_special_tokens(text: str) -> str:
    # Until none is left, since removing one may join the halves of another.
    while any(token in text for token in SPECIAL_TOKENS):
        for token in SPECIAL_TOKENS:
            text = text.replace(token, "")
    return text


def prompt(text: str) -> str:
    """Return the prompt that asks the bundled summarizer for a summary of a text.

    The prompt carries every special token itself; the tokenizer adds none. It is never
    cut: a text that does not fit the model's context is for the caller to refuse.

    Args:
        text: A document body, with or without markup.

    Returns:
        The prompt string; the model continues it with the summary and stops.
    """
    return ask(clean(text))


def ask(prose: str) -> str:
    """Return the prompt of :func:`prompt` for prose that :func:`clean` has made."""
    return f"{BEGIN}{DOCUMENT}{prose}{SUMMARY}"
