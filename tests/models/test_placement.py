"""Options that place parts of a model, and that replace its metadata, on real servers without a GPU."""

import json
import re
import subprocess
import sys

import pytest
from llamaserver.errors import ModelLoadError
from llamaserver.llama import backend

from tests.support.engine.options import load_options
from tests.support.models import N_CTX_TRAIN
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model
MOVED = re.compile(r"tensor (\S+) .*buffer type overridden to CPU\b")
PROMPT = "one two hello world"


def started(model, *args, **options):
    return ServerProcess("-m", str(model), "-v", *args, **options)


def moved(server):
    """Names of the tensors that the library has placed by an override."""
    return {name.removesuffix(".weight") for name in MOVED.findall(server.log)}


def experts(*layers):
    return {f"blk.{layer}.ffn_{name}_exps" for layer in layers for name in ("gate", "up", "down")}


def distribution(server):
    answer = Client(server.url).complete(PROMPT, n_predict=1, n_probs=5)
    return [round(item["prob"], 6) for item in answer["completion_probabilities"][0]["probs"]]


@pytest.fixture(scope="module")
def plain(models):
    with started(models.experts(), "-cmoe") as server:
        assert moved(server) == experts(0, 1)
        return distribution(server)


def test_the_experts_of_all_layers_stay_on_the_cpu(plain):
    assert len(plain) > 1


def test_patterns_and_the_experts_of_the_first_layers(models, plain):
    with started(models.experts(), "--n-cpu-moe", "1", "-ot", r"attn_[qk]=CPU,^output\.weight=CPU") as server:
        attention = {f"blk.{layer}.attn_{name}" for layer in (0, 1) for name in "qk"}
        assert moved(server) == {*experts(0), *attention, "output"}
        assert distribution(server) == plain


def test_the_dense_weights_of_the_first_layers_and_no_device(models):
    with started(models.llama(), "-ncffn", "1", "-dev", "none", "-np", "-1", "-c", "1024") as server:
        client = Client(server.url)
        assert moved(server) == {f"blk.0.ffn_{name}" for name in ("gate", "up", "down")}
        assert client.complete(PROMPT, n_predict=2)["content"]
        props = client.get("/props")
        assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (4, 1024)


def test_metadata_is_replaced(models, plain):
    overrides = ("llama.expert_used_count=int:1,tokenizer.ggml.add_bos_token=bool:false",)
    more = ("--override-kv", "llama.context_length=int:512", "-c", "0")
    with started(models.experts(), "--override-kv", *overrides, *more) as server:
        client = Client(server.url)
        assert distribution(server) != plain
        assert len(client.post("/tokenize", content="a", add_special=True)["tokens"]) == 1
        assert client.get("/props")["default_generation_settings"]["n_ctx"] == 512 < N_CTX_TRAIN


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("-dev", "CUDA7"), "--device CUDA7: there is no such device. Devices of this machine: "),
        (("-ot", "exps=CUDA7"), "--override-tensor exps=CUDA7: buffer types of this machine are CPU"),
    ],
    ids=str,
)
def test_what_is_not_on_this_machine_is_a_wrong_option(models, args, reason, tmp_path):
    ended = tmp_path / "termination"
    with started(models.llama(), *args, "--termination-log", str(ended), wait=False) as server:
        assert server.process.wait(60) == 2
        assert reason in server.log
    told = json.loads(ended.read_text())
    assert told["reason"] == "BadArguments"
    assert reason in told["message"]


def test_a_pattern_that_is_no_regular_expression_is_told(models):
    with started(models.llama(), "-ot", "(=CPU", wait=False) as server:
        assert server.process.wait(60) == 1
        assert "regular expression" in server.log


@pytest.mark.parametrize("offload", [True, False])
def test_the_place_of_the_kv_cache_reaches_the_library(models, monkeypatch, offload):
    seen = []
    monkeypatch.setattr(backend.lib, "llama_init_from_model", lambda _, params: seen.append(params.offload_kqv))
    with pytest.raises(ModelLoadError, match="cannot create a context"):
        backend.LlamaBackend(load_options(models.llama(), kv_offload=offload), lambda _: True)
    assert seen == [offload]


def test_the_list_of_devices():
    command = [sys.executable, "-m", "llamaserver", "--list-devices"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"Available devices:\n(  \(none\)|(  \w+: .+ \(\d+ MiB, \d+ MiB free\)\n?)+)\n", done.stdout)
