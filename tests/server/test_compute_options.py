"""Options of the engine on a real server: each shows in the library's log, the process, or the answers."""

import os
import re
from functools import partial
from pathlib import Path

import llama_cpp
import psutil
import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess
from tests.support.server.traffic import at_once

pytestmark = pytest.mark.model
PROMPT = "The quick brown fox jumps over the lazy dog, and then the dog jumps over the"


def started(*args, **options):
    return ServerProcess("-m", str(model_path()), "-v", *args, **options)


def threads(*args):
    """Threads of a server that has evaluated a prompt and generated.

    Its spinning is chosen, so that no governor adds threads of its own when the machine is busy.
    """
    with started(*args, "--threads-http", "1", env={"GOMP_SPINCOUNT": "1000"}) as server:
        Client(server.url).complete(PROMPT, n_predict=4)
        return psutil.Process(server.pid).num_threads()


def distribution(*args):
    """Probabilities of the next token after PROMPT."""
    with started(*args) as server:
        answer = Client(server.url).complete(PROMPT, n_predict=1, n_probs=5)
        return [(item["tok_str"], round(item["prob"], 6)) for item in answer["completion_probabilities"][0]["probs"]]


def test_how_threads_share_a_matrix_changes_no_bit():
    folder = Path(llama_cpp.__file__).parent / "lib"
    built = [path.read_bytes() for path in folder.glob("libggml-cpu*") if not path.is_symlink()]
    assert built
    assert all(b"GGML_ROWS_BY_THREAD" in code for code in built)

    def answers(way):
        with started("-t", "2", "-np", "2", env={"GGML_ROWS_BY_THREAD": way}) as server:
            ask = partial(Client(server.url).complete, n_predict=24, temperature=0, n_probs=3)
            told = at_once(ask, [PROMPT, "Once upon a time"])
            return [[item["probs"] for item in answer["completion_probabilities"]] for answer in told]

    assert answers("1") == answers("0")


def test_sizes_and_cache_types_reach_the_library():
    with started(
        "-c", "2048", "-np", "2", "-b", "512", "-ub", "64", "-ctk", "q8_0", "-ctv", "q4_0", "-fa", "on"
    ) as server:
        client = Client(server.url)
        props = client.get("/props")
        assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (2, 1024)
        assert client.complete(PROMPT)["content"]
        log = server.log
    for name, value in {"n_ctx": 2048, "n_ctx_seq": 1024, "n_batch": 512, "n_ubatch": 64, "n_seq_max": 2}.items():
        assert re.search(rf"llama_context: {name} += {value}\b", log), name
    assert "flash_attn            = enabled" in log
    assert "K (q8_0)" in log
    assert "V (q4_0)" in log


def test_a_quantized_v_without_flash_attention_is_refused_with_the_reason():
    with started("-ctv", "q4_0", "-fa", "off", wait=False) as server:
        assert server.process.wait(60) == 1
        assert "quantized V cache requires flash_attn to be enabled" in server.log


def test_the_context_of_the_model():
    with started("-c", "0") as server:
        assert Client(server.url).get("/props")["default_generation_settings"]["n_ctx"] == 8192


def test_a_unified_cache():
    with started("-c", "1024", "-np", "2", "--kv-unified") as server:
        assert "kv_unified            = true" in server.log
        assert Client(server.url).get("/props")["default_generation_settings"]["n_ctx"] == 1024


def test_the_cap_on_predicted_tokens():
    with started("-n", "3") as server:
        client = Client(server.url)
        assert client.complete(PROMPT, n_predict=50, ignore_eos=True)["tokens_predicted"] == 3
        assert client.complete(PROMPT, n_predict=2, ignore_eos=True)["tokens_predicted"] == 2
        assert client.complete(PROMPT, n_predict=-1, ignore_eos=True)["tokens_predicted"] == 3


def test_threads_for_generation_and_for_prompts():
    one = threads("-t", "1", "-tb", "1")
    assert threads("-t", "3", "-tb", "1") == one + 2
    assert threads("-t", "1", "-tb", "4") == one + 3
    assert threads("-t", "2") == one + 1  # prompts take the same number


def mapped(server):
    return any(Path(region.path).name == model_path().name for region in psutil.Process(server.pid).memory_maps())


def locked(server):
    """Bytes that the process has locked in memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmLck:\s+(\d+) kB", status)[1]) * 1024


@pytest.mark.parametrize(
    ("args", "maps", "locks"),
    [
        ((), True, False),
        (("--no-mmap",), False, False),
        (("--mlock",), True, True),
        (("--no-mmap", "--mlock"), False, True),
        (("--load-mode", "none"), False, False),
        (("--load-mode", "dio"), False, False),
        (("--load-mode", "mmap+mlock"), True, True),
    ],
    ids=str,
)
def test_mapping_and_locking_the_model(args, maps, locks):
    with started(*args) as server:
        assert mapped(server) == maps
        # without the right to lock that much, the library says so and goes on
        assert (locked(server) > 50_000_000 or "failed to mlock" in server.log) == locks
        assert Client(server.url).complete("x")["content"]


@pytest.mark.parametrize(
    "args", [("--numa",), ("--numa", "distribute"), ("--numa", "isolate"), ("--numa", "numactl")], ids=str
)
def test_numa_strategies_start_and_answer(args):
    with started(*args) as server:
        assert Client(server.url).complete("x")["content"]


@pytest.mark.parametrize("args", [("-ngl", "99"), ("-ngl", "0", "-mg", "0", "-ts", "3,2"), ("-sm", "none")], ids=str)
def test_gpu_options_do_no_harm_without_a_gpu(args):
    with started(*args) as server:
        assert Client(server.url).complete("x")["content"]


@pytest.fixture(scope="module")
def plain():
    return distribution()


ROPE = [
    ("--rope-freq-base", "20000"),
    ("--rope-freq-scale", "0.5"),
    ("--rope-scale", "2"),
    ("--rope-scaling", "yarn", "--rope-freq-scale", "0.5"),
]


@pytest.mark.parametrize("args", ROPE, ids=str)
def test_rope_options_change_the_distribution(plain, args):
    assert distribution(*args) != plain


def test_rope_scale_is_the_inverse_of_the_frequency_scale():
    assert distribution("--rope-scale", "2") == distribution("--rope-freq-scale", "0.5")


YARN = ("--rope-scaling", "yarn", "--rope-freq-scale", "0.5")


@pytest.fixture(scope="module")
def yarn():
    return distribution(*YARN)


@pytest.mark.parametrize(
    "args",
    [
        ("--yarn-orig-ctx", "64"),
        ("--yarn-ext-factor", "0.3"),
        ("--yarn-beta-fast", "8"),
        ("--yarn-beta-slow", "4"),
    ],
    ids=str,
)
def test_yarn_options_change_the_distribution(yarn, args):
    assert distribution(*YARN, *args) != yarn


def test_the_yarn_attention_factor_changes_the_distribution():
    """The library uses its own wherever the extrapolation factor is not 0."""
    off = (*YARN, "--yarn-ext-factor", "0")
    assert distribution(*off, "--yarn-attn-factor", "1.5") != distribution(*off)


def test_without_warmup():
    with started("--no-warmup") as server:
        assert Client(server.url).complete("x")["content"]


def test_two_runs_agree(plain):
    """What the tests above rest on: without a change of options the distribution is the same."""
    assert distribution() == plain


def test_the_default_threads_respect_the_affinity():
    """A server that may use one CPU computes with one thread."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        assert threads() == threads("-t", "1") == threads("-t", "2") - 1
    finally:
        os.sched_setaffinity(0, cpus)


def test_worker_threads():
    def threads_after_load(count):
        with started("--threads-http", str(count), "--api-key", "one,two") as server:
            # One client does not get the last thread. Made before: making one takes longer than an answer.
            clients = [Client(server.url, key) for key in ("one", "two") * 12]
            at_once(lambda client: client.post("/tokenize", content="many words " * 9000), clients)
            return psutil.Process(server.pid).num_threads()

    assert threads_after_load(5) - threads_after_load(1) == 4
