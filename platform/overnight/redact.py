"""Taking secrets out of text before it is logged or recorded (promise 10).

Errors of libraries quote what they were given: URLs with passwords, keys, tokens. Whatever
is stored in lineage or shown to a person passes through here. It removes what looks like a
secret; it does not know the secrets themselves.
"""

from __future__ import annotations

import re

__all__ = ["HIDDEN", "redact"]

HIDDEN = "***"

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # scheme://user:password@host; greedy, because a badly quoted password may hold an "@".
    (
        re.compile(r"(?P<head>\b[a-z][a-z0-9+.\-]*://[^\s:/@'\"]*:)[^\s/'\"]+@", re.IGNORECASE),
        rf"\g<head>{HIDDEN}@",
    ),
    # A password that holds a "/" as well: no host has an "@" behind it.
    (
        re.compile(
            r"(?P<head>\b[a-z][a-z0-9+.\-]*://[^\s:/@'\"]*:)(?!\*\*\*@)[^\s@'\"]+@", re.IGNORECASE
        ),
        rf"\g<head>{HIDDEN}@",
    ),
    # Access key ids of AWS are recognised by their prefix.
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), HIDDEN),
    (re.compile(r"(?P<head>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=\-]{8,}"), rf"\g<head>{HIDDEN}"),
    (
        re.compile(
            r"(?P<head>[\"']?\b[\w.\-]*(?:password|passwd|pwd|secret|secret[_-]?access[_-]?key|token"
            r"|api[_-]?key|x-amz-signature|x-amz-credential|x-amz-security-token|signature)\b[\"']?"
            r"\s*[=:]\s*)(?P<quote>[\"']?)(?!\*\*\*)[^\s\"'&,;)}]+",
            re.IGNORECASE,
        ),
        rf"\g<head>\g<quote>{HIDDEN}",
    ),
    # A secret access key without its name: forty characters that mix cases and digits.
    (
        re.compile(
            r"(?<![A-Za-z0-9/+=])(?=[A-Za-z0-9/+]*[a-z])(?=[A-Za-z0-9/+]*[A-Z])(?=[A-Za-z0-9/+]*[0-9])"
            r"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
        ),
        HIDDEN,
    ),
)


def redact(text: str) -> str:
    """Returns `text` with everything that looks like a secret replaced by `***`.

    Covers passwords in URLs, AWS access keys (ids and secrets), bearer tokens, and
    `name=value` or `"name": "value"` pairs whose name says password, secret, token,
    signature or API key. Redacting twice changes nothing more.
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
