"""The process in which something is measured: calls one function, prints its answer as JSON.

python -m tests.benchmarks.child MODULE:FUNCTION < ARGUMENTS.json
"""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    """Command line."""
    module, _, function = sys.argv[1].partition(":")
    call = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)
    answer = call(**json.load(sys.stdin))
    sys.stdout.flush()
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
