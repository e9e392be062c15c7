"""The kit for GPUs where there is none: its parts alone, and all but CUDA for real."""

import json
import math
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.gpu import hardware, packing, weights
from tests.gpu.answers import Comparison, Place, compare
from tests.gpu.plan import FAILED, NOT_RUN, PASSED, STEPS, Running, report_path
from tests.gpu.report import NotRun, Report, read
from tests.gpu.session import VOCABULARY
from tests.support.paths import model_path

ROOT = Path(__file__).parents[2]


# ---- comparing answers


def place(token: int, shift: float = 0.0) -> Place:
    """Ten likely tokens around one, each a little less likely than the one before."""
    return token, {token + i: -0.1 * i + shift for i in range(10)}


def test_rounding_is_within_tolerance_and_another_answer_is_not() -> None:
    cpu = [place(100), place(200)]
    assert compare([cpu], [cpu]).within
    assert compare([[place(100, 0.1), place(200, -0.1)]], [cpu]).within
    assert not compare([[place(100, 0.2), place(200, 0.2)]], [cpu]).within  # in the mean too far
    assert not compare([[place(700), place(200)]], [cpu]).within


def test_where_texts_part_the_cpu_must_have_been_undecided() -> None:
    near, far = (101, place(100)[1]), (109, {100: 0.0, **{100 + i: -3.0 for i in range(1, 10)}})
    undecided = compare([[near, place(500)]], [[place(100), place(200)]])
    assert undecided.within
    assert undecided.equal == 0
    assert undecided.partings == pytest.approx([0.1])
    sure = [(100, far[1]), place(200)]
    assert not compare([[far, place(200)]], [sure]).within
    unknown = Comparison(differences=[0.0] * 10, named=10, partings=[math.inf])
    assert not unknown.within


# ---- the machine


def program(folder: Path, name: str, output: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{output}\nEOF\n")
    path.chmod(0o755)
    return path


def test_the_gpu_is_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program(tmp_path, "nvidia-smi", "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.159.04")
    card = hardware.gpu()
    assert card == hardware.Gpu("NVIDIA H100 80GB HBM3", 81559, "9.0", "580.159.04")
    assert card.architecture == "90-real"


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a CUDA toolkit that has no cuBLAS, first on the path."""
    root = tmp_path / "cuda"
    program(root / "bin", "nvcc", "Cuda compilation tools, release 13.0, V13.0.88")
    for name in ("include/cccl/cub/cub.cuh", "lib64/libcudart.so", "lib64/stubs/libcuda.so"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return root


def test_what_the_toolkit_lacks_comes_from_python_packages(
    cuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "nvidia" / "cu13"
    for name in ("include/cublas_v2.h", "lib/libcublas.so.13", "lib/libcublasLt.so.13"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    found = hardware.toolkit()
    assert (found.nvcc, found.root, found.release) == (cuda / "bin" / "nvcc", cuda, "13.0")
    assert found.blas_include == package / "include"
    assert found.driver == cuda / "lib64" / "stubs" / "libcuda.so"
    assert found.library_folders == [cuda / "lib64", package / "lib"]


def test_a_part_that_is_nowhere_is_named(cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(NotRun, match=r"cublas_v2\.h is not on this machine"):
        hardware.toolkit()


# ---- steps


def test_a_step_that_is_cut_off_leaves_what_it_knew_and_no_process(tmp_path: Path) -> None:
    step = next(step for step in STEPS if step.name == "reference")
    for name in ("logs", "reports"):
        (tmp_path / name).mkdir()
    running = Running(step, tmp_path, ["--cpu", "--work", str(tmp_path)])
    Report(report_path(tmp_path, step)).figure("so far", 1)
    result = running.wait(0.0)
    assert (result["state"], result["reason"]) == (FAILED, "cut off after 0 s")
    assert result["figures"] == {"so far": 1}
    with pytest.raises(ProcessLookupError):
        os.killpg(running._process.pid, 0)


def test_a_report_is_kept_after_each_word(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = Report(path)
    assert read(path) == {"checks": [], "figures": {}}
    report.check("it holds", True, 3)
    assert read(path)["checks"] == [{"what": "it holds", "ok": True, "seen": 3}]


def test_a_step_names_only_steps_before_it() -> None:
    before: list[str] = []
    for step in STEPS:
        assert set(step.needs) <= set(before), step.name
        before.append(step.name)


# ---- the pack


def test_the_packed_source_has_no_other_backend(tmp_path: Path) -> None:
    llama = tmp_path / "top" / "vendor" / "llama.cpp"
    names = [*packing._SOURCE, "ggml/src/ggml-cuda/a.cu", "ggml/src/ggml-vulkan/b.cpp", "ggml/src/ggml.c", "docs/c.md"]
    for name in names:
        path = llama / name
        if "." in path.name or path.name == "LICENSE":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True, exist_ok=True)
    archive = tmp_path / "source.tar.xz"
    packing.source(archive, tmp_path / "top")
    with tarfile.open(archive) as opened:
        files = {member.name for member in opened.getmembers() if member.isfile()}
    assert files == {"CMakeLists.txt", "LICENSE", "ggml/src/ggml-cuda/a.cu", "ggml/src/ggml.c"}


# ---- for real, but for CUDA


@pytest.mark.model
def test_a_hollow_model_has_its_size_and_takes_no_room(tmp_path: Path) -> None:
    path = weights.hollow(tmp_path, model_path(), 3 << 30)
    assert path.stat().st_size >= 3 << 30
    assert path.stat().st_blocks * 512 < 32 << 20


@pytest.mark.model
@pytest.mark.slow
def test_the_kit_runs_on_a_cpu(tmp_path: Path) -> None:
    """As on a machine without a network: from a pack, the default model is not there."""
    (tmp_path / "pack").mkdir()
    packing.vocabulary(tmp_path / "pack" / VOCABULARY)
    steps = (
        "models,amx,reference,module,offload,exact,speed_small,slot_files,kv_store,fallback,out_of_memory,long_prompt"
    )
    command = [sys.executable, "-m", "tests.gpu", "--cpu", "--work", str(tmp_path / "work"), "--only", steps]
    done = subprocess.run(
        [*command, "--seconds", "540", "--out", str(tmp_path / "out.json"), "--pack", str(tmp_path / "pack")],
        cwd=ROOT,
        env={**os.environ, "LLAMASERVER_CACHE": str(tmp_path / "empty")},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    result = json.loads((tmp_path / "out.json").read_text())
    assert done.returncode == 0, done.stderr[-3000:]
    states = {name: step["state"] for name, step in result["steps"].items()}
    not_here = {"module", "offload"} | ({"amx"} if states["amx"] == NOT_RUN else set())
    assert states == {name: NOT_RUN if name in not_here else PASSED for name in steps.split(",")}
    assert result["not_run"]["offload"] == "no GPU"
    assert result["steps"]["exact"]["figures"]["small"]["largest"] == 0.0  # the same library on both sides
    speed = result["steps"]["speed_small"]["figures"]
    assert speed["one_stream tokens_per_second"]["ours"] > 0
    assert len(result["steps"]["fallback"]["checks"]) >= 7
    assert (result["peer"], result["real_model"]) == ("not here", "not here")
