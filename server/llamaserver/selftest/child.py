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

from ..config import Config
from ..errors import ModelLoadError
from ..llama import cpu_modules


def _inspect(path: str) -> dict[str, Any]:
    module = cpu_modules.inspect(Path(path))
    return {"score": module.score, "features": module.features}


def _evaluate(module: str, model: str, out: str, threads: str, *follow: str) -> dict[str, Any]:
    from ..engine_options import load_options
    from ..llama import trial

    began = time.monotonic()
    config = Config(
        ctx_size=2 * (trial.PROMPT + trial.DECODED),
        batch_size=trial.PROMPT,
        threads=int(threads),
        n_gpu_layers=0,
        embedding=True,  # every row may have its output
        pooling="none",
    )
    found = trial.evaluate(
        Path(module) if module else None,
        load_options(config, Path(model)),
        [int(token) for token in follow] or None,
    )
    np.save(out, found.rows)
    return {
        "followed": found.followed,
        "description": found.info.description,
        "system_info": found.info.system_info,
        "weights_in": found.info.weights_in,
        "causal": found.info.causal,
        "seconds": round(time.monotonic() - began, 1),
    }


def _quantize(module: str, model: str, kind: str, out: str, threads: str) -> dict[str, Any]:
    from ..llama import trial

    trial.quantize(Path(module) if module else None, model, kind, Path(out), int(threads))
    return {}


_STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "inspect": _inspect,
    "evaluate": _evaluate,
    "quantize": _quantize,
}


def main(argv: list[str]) -> None:
    """Run the step that the first word names. Exits with 1 and {"error"} if the library refuses it."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a failing assertion would start a debugger
    try:
        result = _STEPS[argv[0]](*argv[1:])
    except ModelLoadError as error:
        print(json.dumps({"error": str(error)}))
        sys.exit(1)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
