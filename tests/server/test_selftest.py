"""`llamaserver selftest`: real modules on real models; what is right passes, and what is made wrong does not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
from llamaserver.selftest.compare import MEAN_LIMIT, WORST_LIMIT, compare, finite

from tests.support.engine import native_faults
from tests.support.models import Models
from tests.support.paths import model_path
from tests.support.server.process import ServerProcess

FOLDER = Path(llama_cpp.__file__).parent / "lib"
KINDS = ("Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0", "F16")
OWN = "Q4_1"  # of the default model
MODULES = {path.stem.removeprefix("libggml-cpu-") for path in FOLDER.glob("libggml-cpu-*.so")}


# ---- the comparison


@pytest.fixture
def logits():
    """74 rows, as spread as those of a language model."""
    return np.random.default_rng(1).normal(-2, 3.6, (74, 5000)).astype(np.float32)


def noise(logits, size):
    return np.random.default_rng(2).normal(0, size, logits.shape).astype(np.float32)


def test_the_same_is_the_same(logits):
    found = compare(logits, logits.copy())
    assert (found.largest, found.mean, found.relative, found.worst) == (0, 0, 0, 0)
    assert (found.same_top, found.rows) == (74, 74)
    assert found.sound


def test_the_figures(logits):
    other = logits + noise(logits, 0.36)
    found = compare(logits, other)
    assert found.largest == pytest.approx(np.abs(other - logits).max())
    assert found.mean == pytest.approx(np.abs(other - logits).mean())
    assert found.relative == pytest.approx(0.1, rel=0.02)
    assert found.worst == pytest.approx(0.1, rel=0.1)
    assert found.same_top == (logits.argmax(1) == other.argmax(1)).sum() < 74
    assert found.sound


def test_a_constant_changes_no_probability(logits):
    found = compare(logits, logits + 7)
    assert found.largest == pytest.approx(7, rel=1e-3)
    assert found.relative < 1e-6
    assert found.sound


def _one_row_of_another_place(rows):
    rows[40] = rows[41]


def _one_row_empty(rows):
    rows[70] = 0


def _a_sign(rows):
    rows[3] *= -1


def _a_tile_of_columns(rows):
    rows[:, ::4] = rows[:, 1::4]


def _a_scale(rows):
    rows *= 1.4


def _too_much_noise(rows):
    rows += noise(rows, 3.6 * MEAN_LIMIT * 1.1)


def _not_a_number(rows):
    rows[73, 9] = np.nan


def _infinite(rows):
    rows[0, 0] = np.inf


WRONGS = (
    _one_row_of_another_place, _one_row_empty, _a_sign, _a_tile_of_columns, _a_scale, _too_much_noise,
    _not_a_number, _infinite,
)  # fmt: skip


@pytest.mark.parametrize("spoil", WRONGS, ids=lambda spoil: spoil.__name__[1:])
def test_wrong_arithmetic_is_found(logits, spoil):
    wrong = logits.copy()
    spoil(wrong)
    assert not compare(logits, wrong).sound


def test_another_shape_is_wrong(logits):
    assert not compare(logits, logits[:64]).sound
    assert not compare(logits, logits[:, :-1]).sound


def test_forbidden_tokens_do_not_count(logits):
    logits[:, :100] = -np.inf
    assert finite(logits)
    assert compare(logits, logits + noise(logits, 0.1)).sound
    assert not finite(np.full((2, 5), -np.inf, np.float32))
    assert not finite(np.array([[1, np.nan]], np.float32))


# ---- the command


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


def selftest(model, *args, **env):
    """Exit code, and stdout as it was."""
    argv = [sys.executable, "-m", "llamaserver", "selftest", "-m", str(model), "-t", "2", *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=1500, env=os.environ | env)
    return done.returncode, done.stdout


def told(model, *args, **env):
    """Exit code, the JSON object, and its results by module."""
    code, out = selftest(model, *args, "--json", **env)
    body = json.loads(out)
    assert body["ok"] == (code == 0)
    return code, body, {result["module"]: result for result in body["results"]}


def flags():
    """What the kernel says of this CPU, in the spelling of ggml."""
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return {flag.replace("_", "").upper() for flag in found[1].split()} if found else set()


@pytest.fixture(scope="module")
def plain(models):
    return told(models.llama())


def test_each_module_is_told_of(plain):
    code, body, results = plain
    assert code == 0
    assert set(results) == MODULES
    verdicts = [result["verdict"] for result in body["results"]]
    assert verdicts.count("reference") == 1
    assert set(verdicts) <= {"reference", "ok", "not run"}
    assert results[body["serving"]]["verdict"] == "ok"
    for result in results.values():
        lacking = re.fullmatch(r"this CPU lacks (.+)", result["why"])
        assert bool(lacking) == (result["verdict"] == "not run")
        if lacking:
            assert not {name.replace("_", "") for name in lacking[1].split(", ")} <= flags()


def test_the_module_of_the_server_is_the_one_that_a_server_takes(plain, models, tmp_path):
    log = tmp_path / "log"
    with ServerProcess("-m", str(models.llama()), "-t", "1", "--termination-log", str(log)):
        assert json.loads(log.read_text())["cpu"] == f"{plain[1]['cpu']}, {plain[1]['serving']}"


def test_a_module_that_crashes_is_told_with_its_signal(plain, models, tmp_path):
    env = {"LD_PRELOAD": str(native_faults.compiled(tmp_path)), "CRASH_IN_MODULE": plain[1]["serving"]}
    code, body, results = told(models.llama(), **env)
    assert code == 1
    assert results[body["serving"]]["verdict"] == "FAILED"
    assert results[body["serving"]]["why"] == "crashed with SIGSEGV"
    assert {r["verdict"] for name, r in results.items() if name != body["serving"]} <= {"reference", "ok", "not run"}


def test_a_module_that_computes_wrongly_fails(plain, models, tmp_path):
    env = {"LD_PRELOAD": str(native_faults.compiled(tmp_path)), "WRONG_IN_MODULE": plain[1]["serving"]}
    code, body, results = told(models.llama(), **env)
    assert code == 1
    failed = results[body["serving"]]
    assert (failed["verdict"], failed["why"]) == ("FAILED", "its results are wrong")
    assert failed["difference"]["worst"] > WORST_LIMIT
    assert {r["verdict"] for name, r in results.items() if name != body["serving"]} <= {"reference", "ok", "not run"}


def test_the_next_module_is_the_reference_when_the_plainest_crashes(plain, models, tmp_path):
    order = [result["module"] for result in plain[1]["results"] if result["verdict"] in ("reference", "ok")]
    env = {"LD_PRELOAD": str(native_faults.compiled(tmp_path)), "CRASH_IN_MODULE": order[0]}
    code, _, results = told(models.llama(), **env)
    assert code == 1
    assert [results[name]["verdict"] for name in order[:3]] == ["FAILED", "reference", "ok"]


def test_a_model_that_is_broken_is_told_apart_from_a_machine_that_is(models, tmp_path):
    whole = models.llama()
    found = next(one for one in gguf.GGUFReader(whole).tensors if one.name == "output.weight")
    content = bytearray(whole.read_bytes())
    content[found.data_offset : found.data_offset + 4] = np.float32(np.nan).tobytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(content)
    code, out = selftest(broken)
    assert code == 1
    assert out.count("FAILED: numbers that are not finite") > 1
    assert out.endswith("All modules fail. The model file is at fault, and probably not this machine.\n")


def test_a_file_that_is_no_model(models):
    code, _, results = told(models.garbage())
    assert code == 1
    assert all("cannot load model" in r["why"] for r in results.values() if r["verdict"] != "not run")


@pytest.mark.parametrize("kind", ["bert", "mamba", "jamba", "gemma2"])
def test_models_of_other_kinds(plain, models, kind):
    plainest = next(result["module"] for result in plain[1]["results"] if result["verdict"] == "reference")
    code, body, results = told(getattr(models, kind)(), "--modules", f"{plainest},{plain[1]['serving']}")
    assert (code, body["ok"], len(results)) == (0, True, 2)
    rows = {result["difference"]["rows"] for result in results.values() if result["difference"]}
    assert rows == {64 if kind == "bert" else 74}


def test_the_table(plain, models):
    serving = plain[1]["serving"]
    others = [result["module"] for result in plain[1]["results"] if result["verdict"] == "not run"]
    code, out = selftest(models.llama(), "--modules", ",".join([serving, *others]), "--types", "Q8_0,F16")
    assert code == 0
    assert f"The server uses the module: {serving}\n" in out
    assert re.search(rf"^{serving} +Q8_0 .* reference$", out, re.MULTILINE)
    for name in others:
        assert re.search(rf"^{name} +F16 +not run: this CPU lacks \S+", out, re.MULTILINE)
    assert "Weights in a special layout for the CPU: " in out
    assert out.endswith("It runs.\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "the following arguments are required: -m/--model"),
        (("-m", "/no/such/file"), "--model: /no/such/file is no file"),
        (("-m", __file__, "--types", "Q9_9"), "--types: Q9_9 is none of BF16, F16, "),
        (("-m", __file__, "--modules", "pentium"), "--modules: pentium is none of "),
        (("-m", __file__, "-t", "many"), "argument -t/--threads: invalid int value: 'many'"),
    ],
)
def test_usage(args, message):
    argv = [sys.executable, "-m", "llamaserver", "selftest", *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_modules_that_this_cpu_can_run_compute_the_same(plain, models, kind):
    check_all_modules(plain, models.wide(), kind)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", [OWN, *(pytest.param(kind, marks=pytest.mark.more) for kind in KINDS if kind != OWN)])
def test_they_do_with_the_default_model(plain, kind):
    check_all_modules(plain, model_path(), kind)


def check_all_modules(plain, model, kind):
    code, body, _ = told(model, "--types", kind)
    assert code == 0, body
    ran = [result for result in body["results"] if result["verdict"] != "not run"]
    assert [result["verdict"] for result in ran] == ["reference", *["ok"] * (len(ran) - 1)]
    assert {result["module"] for result in ran} == {
        result["module"] for result in plain[1]["results"] if result["verdict"] != "not run"
    }
    assert all(kind in result["description"] for result in ran)
