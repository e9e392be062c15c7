"""The scripts in `python/` and `node/`, each with the library that its name begins with.

They run in environments of their own (`environments.py`). The model is small, but grammars make it able to call tools.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.clients import environments

pytestmark = [pytest.mark.model, pytest.mark.slow]
HERE = Path(__file__).parent
PYTHON = sorted(path.name for path in (HERE / "python").glob("*.py"))
NODE = sorted(path.name for path in (HERE / "node").glob("*.mjs"))
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {
    "OPENAI_API_KEY": "x",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def run(command: list[str], url: str) -> None:
    done = subprocess.run(
        command,
        cwd=HERE,
        env=ENVIRONMENT | {"LLAMASERVER_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


@pytest.mark.parametrize("script", PYTHON)
def test_python(url: str, script: str) -> None:
    options = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "--noconftest", "-c", os.devnull]
    run([str(environments.python()), "-m", "pytest", *options, str(HERE / "python" / script)], url)


@pytest.mark.parametrize("script", NODE)
def test_node(url: str, script: str, tmp_path: Path) -> None:
    modules = environments.node_modules() / "node_modules"
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / script).write_text((HERE / "node" / script).read_text())  # modules are looked up beside the file
    run(["node", "--test", str(tmp_path / script)], url)
