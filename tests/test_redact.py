from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.redact import redact


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter2@db:5432/x",
        "could not connect to postgresql+psycopg://me:hun/ter2@db",
        "postgresql://me:p@hunter2@db/x",
        "redis://:hunter2@cache",
        "password=hunter2 host=db",
        "PGPASSWORD='hunter2'",
        '{"aws_secret_access_key": "hunter2"}',
        "token: hunter2",
        "Authorization: Bearer hunter2hunter2",
        "https://b.s3.amazonaws.com/k?X-Amz-Signature=hunter2&X-Amz-Date=1",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "key", ["AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"]
)
def test_aws_keys_are_hidden_wherever_they_stand(key: str) -> None:
    assert redact(f"with {key}, denied") == "with ***, denied"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://db:5432/x",
        "s3://bucket/landing/articles/2026-11-21/a.jsonl",
        "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "1,024 tokens/s; max_tokens=128; prompt_tokens: 7",
        "row 7, column 'price': 'x' is not a number",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)
