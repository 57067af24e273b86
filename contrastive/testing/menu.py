"""Imports a config in a new process and says who imports torch. Run as a program, by its path.

It imports nothing of ours but what the config does; the answer, one JSON object, is all of stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

HEAVY = "torch"


class Watch:
    """A finder that finds nothing, and notes who asked for torch first."""

    importer = ""

    def find_spec(self, name: str, *_: object) -> None:
        """Note the innermost line of code that is not the import system."""
        if name == HEAVY and not self.importer:
            frames = traceback.extract_stack()[:-1]
            code = [frame for frame in frames if not frame.filename.startswith("<frozen")]
            folder, file = os.path.split(code[-1].filename)
            self.importer = f"{os.path.basename(folder)}/{file}:{code[-1].lineno}"  # noqa: PTH119


def main() -> None:
    """Import ``module:Class`` and check fields in JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    path, fields = sys.argv[1:]
    sys.meta_path.insert(0, watch := Watch())  # pyright: ignore[reportArgumentType]
    result: dict[str, Any] = {}
    try:
        module, _, names = path.partition(":")
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
        found.model_validate(json.loads(fields))
    except BaseException as error:  # SystemExit too
        result["error"] = " ".join(f"{type(error).__name__}: {error}".split())
    if HEAVY in sys.modules:
        result["torch"] = watch.importer or "it"
    print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
