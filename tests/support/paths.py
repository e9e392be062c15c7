"""Where the default model lies."""

from functools import lru_cache
from pathlib import Path

from tools import model


@lru_cache
def model_path() -> Path:
    """SmolLM2-135M-Instruct, fetched into the cache when it is not there."""
    return Path(model.ensure())
