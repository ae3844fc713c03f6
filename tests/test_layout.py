"""The layout is load-bearing: `platform/` is a source root that shares its name with a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_platform_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_the_standard_librarys_platform_wins_at_the_repository_root() -> None:
    done = python("-c", "import platform; print(platform.system())")
    assert done.stdout.strip() == "Linux", done.stderr


@pytest.mark.parametrize("module", ["pytest", "dagster"])
def test_modules_run_at_the_repository_root(module: str) -> None:
    done = python("-m", module, "--version")
    assert done.returncode == 0, done.stderr


def test_the_top_level_is_the_given_one() -> None:
    for name in ("platform", "assets", "resources", "tests", "infra"):
        assert (ROOT / name).is_dir(), name
    for name in ("workspace.yaml", "pyproject.toml", "README.md", "LICENSE", "Makefile"):
        assert (ROOT / name).is_file(), name


HEAVY = ("vllm", "ray", "torch", "xgboost", "transformers", "matplotlib")


def test_definitions_load_without_any_heavy_package() -> None:
    code = (
        "import sys, time, dagster; import assets.definitions\n"
        "assets.definitions.defs.get_repository_def().load_all_definitions()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
