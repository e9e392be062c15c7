"""One step of the self-test in a process of its own, which may crash: look into a module, evaluate, or quantize.

Called by run.py. The result is a JSON object, the last line of stdout; logits go to a file.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import llama_modules
from ..errors import ModelLoadError


def _inspect(path: str) -> dict[str, Any]:
    module = llama_modules.inspect(Path(path))
    return {"score": module.score, "features": module.features}


def _evaluate(module: str, model: str, out: str, threads: str, *follow: str) -> dict[str, Any]:
    from ..engine import llama_trial

    began = time.monotonic()
    trial = llama_trial.evaluate(
        Path(module) if module else None, model, int(threads), [int(token) for token in follow] or None
    )
    np.save(out, trial.rows)
    return {
        "followed": trial.followed,
        "description": trial.info.description,
        "system_info": trial.info.system_info,
        "weights_in": trial.info.weights_in,
        "causal": trial.info.causal,
        "seconds": round(time.monotonic() - began, 1),
    }


def _quantize(module: str, model: str, kind: str, out: str, threads: str) -> dict[str, Any]:
    from ..engine import llama_trial

    llama_trial.quantize(Path(module) if module else None, model, kind, Path(out), int(threads))
    return {}


_STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "inspect": _inspect,
    "evaluate": _evaluate,
    "quantize": _quantize,
}


def main(argv: list[str]) -> None:
    """Run the step that the first word names; exits with 1 and {"error"} when the library refuses."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a failing assertion would start a debugger
    try:
        result = _STEPS[argv[0]](*argv[1:])
    except ModelLoadError as error:
        print(json.dumps({"error": str(error)}))
        sys.exit(1)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
