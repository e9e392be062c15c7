"""Engine settings and load options for tests: the defaults of Config but for what is given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from llamaserver import engine_options
from llamaserver.config import Config
from llamaserver.llama.options import LoadOptions
from llamaserver.scheduling.settings import EngineSettings


def engine_settings(**changes: Any) -> EngineSettings:
    """Settings of one slot of 512 tokens, with an unlimited queue."""
    return replace(engine_options.engine_settings(Config(prompt_budget=128, max_queue=0)), **changes)


def load_options(model: Path | str, **changes: Any) -> LoadOptions:
    """Options for one sequence and one thread."""
    return replace(engine_options.load_options(Config(threads=1), Path(model)), **changes)
