"""The operator's side and the server's side of one contract, in one process."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llamaserver import options
from llamaserver.config import Config
from llamaserver_operator import names
from llamaserver_operator.files import model_files
from llamaserver_operator.parsing import parse
from llamaserver_operator.resources.arguments import server_arguments, server_variables

# What the image sets: a test of the images holds it there.
IMAGE = {"LLAMA_ARG_LOG_DISABLE": "true", "LLAMA_ARG_HOST": "0.0.0.0", "LLAMA_ARG_MANAGEMENT_PORT": "8081"}
FOLDERS = ("MODELS_DIR", "KV_DIR", "CONFIG_DIR", "API_KEYS_DIR", "TLS_DIR", "KV_KEY_DIR", "SOURCES_DIR")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands in for the file system of a pod, because the server's parser checks that folders exist."""
    root = tmp_path_factory.mktemp("pod")
    for name in FOLDERS:
        (root / getattr(names, name).lstrip("/")).mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture(scope="module", autouse=True)
def in_folders(folders: Path):
    """The operator writes these paths."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOLDERS:
            patch.setattr(names, name, f"{folders}{getattr(names, name)}")
        yield


def rendered(raw: dict[str, Any]) -> list[str]:
    """The command line of the server for a spec, as the kubelet makes it from the container's arguments."""
    spec = parse(raw)
    arguments = server_arguments(spec, model_files(spec), "models", "demo")
    return [re.sub(r"\$\$|\$\([^)]*\)", lambda found: found[0][0] if found[0] == "$$" else "", a) for a in arguments]


@pytest.fixture
def config(folders: Path) -> Callable[..., Config]:
    """The server's own view of a spec."""

    def read(raw: dict[str, Any], **environ: str) -> Config:
        return options.parse(rendered(raw), IMAGE | server_variables(parse(raw)) | environ)

    return read
