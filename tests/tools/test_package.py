"""What the server's wheel carries."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

SERVER = Path(__file__).parents[2] / "server"


def test_the_wheel_carries_the_page_and_the_types(tmp_path):
    source = shutil.copytree(SERVER, tmp_path / "server", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    build = ["wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    subprocess.run([sys.executable, "-m", "pip", *build, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("llamaserver-*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    web = {str(path.relative_to(SERVER)) for path in (SERVER / "llamaserver" / "web").rglob("*") if path.is_file()}
    assert {"llamaserver/web/index.html", "llamaserver/web/completion.js", "llamaserver/py.typed"} <= carried
    assert web <= carried
