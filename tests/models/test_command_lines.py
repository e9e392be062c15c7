"""Command lines with which people start llama-server start this server, or stop with the documented reason.

They come from public Docker Compose files, configurations of llama-swap, systemd units, scripts and guides. Only paths
of models, thread counts and ports are replaced: the models are tiny, and the machine of the tests is small.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from llamaserver import options

from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model
SOURCES = {"-m", "--model", "-hf", "--hf-repo", "--hf-file", "--chat-template-file"}
HERE = {"-t": "2", "--threads": "2", "-tb": "2", "--threads-batch": "2", "--port": "", "--host": ""}


@dataclass(frozen=True)
class Line:
    """One command line. `differs` names the arguments that the log warns of, `stops` is the reason of a refusal."""

    origin: str
    text: str
    differs: str = ""
    stops: str = ""
    model: str = "experts"
    more: bool = False  # its options are tested elsewhere, or by other lines
    environ: Mapping[str, str] = field(default_factory=dict)


LINES = (
    Line("script", "-m M --alias qwen2.5-coder-7b -ngl 29 -c 4096 -t 8 --host 127.0.0.1 --port 8080 --jinja"),
    Line(
        "script with a longer context",
        "--model M --host 0.0.0.0 --port 8000 --ctx-size 81920 --rope-scale 2.5 --no-context-shift --threads 16 "
        "--n-gpu-layers -1 --batch-size 256 --ubatch-size 256 --parallel 1 --flash-attn on --cont-batching --jinja "
        "--cache-ram 0",
    ),
    Line(
        "script with sampling",
        "-m M --keep -1 --predict -1 --ctx-size 2048 --batch-size 2048 -ngl 20 --threads 4 --threads-batch 4 --mlock "
        "--flash-attn --repeat-last-n 64 --repeat-penalty 1.1 --mirostat 0 --top-k 40 --top-p 0.9 --min-p 0.0 "
        "--no-escape --host 0.0.0.0 --port 8080",
        differs="--no-escape",
    ),
    Line(
        "server for llama.vim",
        "-hf ggml-org/Qwen2.5-Coder-3B-Q8_0-GGUF --port 8012 -ngl 99 -fa -ub 1024 -b 1024 -dt 0.1 --ctx-size 0 "
        "--cache-reuse 256",
        differs="-dt --cache-reuse",
    ),
    Line(
        "script with a key",
        "--no-webui --api-key secret --jinja --reasoning-format none -m M --alias Qwen3-30B --host 0.0.0.0 --port 8080 "
        "--gpu-layers 100 --batch-size 2048 --ubatch-size 512 --no-context-shift --no-mmap --ctx-size 32768 "
        "--log-verbose",
        differs="--no-webui",
        more=True,
    ),
    Line(
        "llama-swap, direct I/O",
        "--port 9000 --model M -ngl 99 -c 8192 -sm layer --tensor-split 2,2,1,1,1 -fit off -b 512 -ub 512 -ctk q8_0 "
        "-ctv q8_0 --flash-attn on -np 1 -t 4 --mlock --direct-io --jinja --no-context-shift --temp 0.8 --top-k 40 "
        "--top-p 0.95 --min-p 0.05 --repeat-penalty 1.0",
        differs="-fit",
    ),
    Line(
        "llama-swap, embeddings",
        "--port 9000 -hf nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0 -ngl 99 --embeddings --batch-size 8192",
        model="bert",
    ),
    Line(
        "guide with parallel requests",
        "--port 8080 --model M --alias qwen-3.5-35b --flash-attn on --temp 0.6 --top-p 0.95 --top-k 20 --min-p 0.0 "
        "--presence-penalty 0.0 --parallel 5 --jinja --ctx-size 131072 --ctx-checkpoints 128 --timeout 1200 "
        "--kv-unified",
        differs="--ctx-checkpoints",
        more=True,
    ),
    Line(
        "llama-swap, one GPU",
        "--port 9000 --model M --n-gpu-layers 999 --ctx-size 262144 --host 0.0.0.0 --temp 0.1 --top-p 0.95 --top-k 64 "
        "--split-mode none --main-gpu 0",
        more=True,
    ),
    Line(
        "llama-swap, experts on the CPU",
        "-hf org/gpt-oss-120b-GGUF --hf-file gpt-oss-120B-Q4_K_M.gguf --port 9000 --ctx-size 65536 --batch-size 512 "
        "--ubatch-size 512 --split-mode layer --tensor-split 1.3,3 --n-cpu-moe 24 --threads 8 "
        """--chat-template-kwargs '{"reasoning_effort": "high"}' --jinja""",
    ),
    Line(
        "guide with overridden tensors",
        "-m M -ngl 99 --jinja --temp 0.6 --top_p 0.95 --min_p 0.01 --ctx-size 8192 -ot '.ffn_.*_exps.=CPU'",
    ),
    Line(
        "Compose with a draft model",
        "-m M -md draft.gguf -ngl 99 -ngld 99 -c 32768 -cd 32768 -b 2048 -ub 512 -ctk q8_0 -ctv q8_0 -fa auto "
        "--cache-prompt --cache-reuse 256 --context-shift --mlock --metrics --props --slots --jinja --reasoning auto "
        "-a qwen,qwen2.5-coder --prio 1 --threads -1 -np -1 --draft-max 16 --draft-min 4 --draft-p-min 0.65 "
        "--webui-mcp-proxy --override-kv general.name=str:Qwen2.5-Coder-7B-Instruct-Q4_K_M",
        differs="-md -ngld -cd --cache-reuse --props --prio --draft-max --draft-min --draft-p-min --webui-mcp-proxy",
    ),
    Line(
        "entry point of a container",
        "--top-k 40 --top-p 0.95 --min-p 0.05 --temp 0.80 --reasoning-budget-message 'I have thought enough.' "
        "--gpu-layers all --reasoning-budget 2048 --cache-reuse 256 --flash-attn on --kv-unified --parallel 4 "
        "--no-warmup --no-mmproj --no-slots --no-ui -m M",
        differs="--cache-reuse --no-mmproj --no-ui",
    ),
    Line(
        "guide with embeddings of a chat model",
        "-hf ggml-org/gpt-oss-20b-GGUF --ctx-size 8192 --jinja -ub 2048 -b 2048 --embeddings --pooling mean",
        more=True,
    ),
    Line(
        "batch file for reranking",
        "-hf org/Reranker-GGUF:Q4_K_M --reranking --pooling rank --ctx-size 32768 --batch-size 1024 --ubatch-size 1024 "
        "--cache-ram 0 --gpu-layers 28 --no-mmap --threads 8 --parallel 2 --temp 0.7 --top-p 0.95 --top-k 20 "
        "--min-p 0.00 --alias Reranker --port 48003",
        model="reranker",
    ),
    Line(
        "launcher with priorities",
        "-hf org/model --host 127.0.0.1 --port 8080 --jinja -ngl 99 -fa auto -c 8192 -t 8 -b 512 -ub 512 -n 2048 "
        "--temp 0.0 --cache-type-k q8_0 --cache-type-v q8_0 --slot-save-path slots --log-file server.log --mlock "
        "--prio 2 --poll 100 --poll-batch 1 --log-disable",
        differs="--prio --poll --poll-batch",
    ),
    Line(
        "script with a kept beginning",
        "-m M -np 1 -c 65536 --temp 0.6 --top-p 0.95 --top-k 20 --cache-type-k q8_0 --cache-type-v q8_0 --port 5001 "
        "--host 0.0.0.0 --kv-unified --jinja --flash-attn on --load-mode mmap -b 2048 -ub 512 --cache-reuse 256 "
        "--keep 4096 --fit on --fit-target 250",
        differs="--cache-reuse --fit --fit-target",
    ),
    Line(
        "container for an agent",
        """-m M --chat-template-kwargs '{"enable_thinking": true, "preserve_thinking": true}' --reasoning on """
        "--spec-type draft-mtp --spec-draft-n-max 2 --temp 0.6 --top-p 0.95 --top-k 20 --min-p 0.0 "
        "--presence-penalty 0.0 --repeat-penalty 1.0 -b 256 -ub 128 --cache-idle-slots --cache-ram 8192 "
        "--cache-reuse 256 --threads 8 --cpu-range 0-7 --timeout 360",
        differs="--spec-type --spec-draft-n-max --cache-idle-slots --cache-reuse --cpu-range",
    ),
    Line(
        "unit with a built-in template", "--model M --host 0.0.0.0 --n-gpu-layers 999 --chat-template llama3", more=True
    ),
    Line(
        "Compose with variables",
        "",
        environ={
            "LLAMA_ARG_MODEL": "M",
            "LLAMA_ARG_CTX_SIZE": "4096",
            "LLAMA_ARG_N_GPU_LAYERS": "99",
            "LLAMA_ARG_HOST": "0.0.0.0",
            "LLAMA_ARG_PORT": "8080",
            "LLAMA_ARG_N_PARALLEL": "1",
            "LLAMA_ARG_FLASH_ATTN": "1",
            "LLAMA_ARG_JINJA": "true",
            "LLAMA_ARG_MMPROJ_AUTO": "0",
            "LLAMA_ARG_PARALLEL": "1",
        },
        differs="LLAMA_ARG_MMPROJ_AUTO LLAMA_ARG_PARALLEL",
    ),
    Line(
        "deployment with variables",
        "",
        environ={
            "LLAMA_ARG_MODEL": "M",
            "LLAMA_ARG_CTX_SIZE": "131072",
            "LLAMA_ARG_N_PARALLEL": "2",
            "LLAMA_ARG_FLASH_ATTN": "on",
            "LLAMA_ARG_CACHE_TYPE_K": "q8_0",
            "LLAMA_ARG_CACHE_TYPE_V": "q8_0",
            "LLAMA_ARG_REASONING": "off",
            "LLAMA_ARG_CHAT_TEMPLATE_KWARGS": '{"enable_thinking":false}',
        },
        more=True,
    ),
    # ---- refusals
    Line(
        "guide with tensor parallelism",
        "--model M --host 0.0.0.0 --n-gpu-layers 999 --split-mode tensor --ctx-size 98304 --flash-attn on --parallel 2 "
        "--cache-ram 32768 --jinja --reasoning-budget 4096 --spec-type ngram-mod --spec-ngram-size-n 24 --draft-min 48 "
        "--draft-max 64 -fit off",
        stops="--split-mode: tensor is not supported. It is experimental in llama.cpp. Use layer or row",
    ),
    Line(
        "script with two GPUs by name",
        "-m M --jinja -fa on -c 30000 -ngl 999 -ot 'exps=CPU' --override-tensor 'blk.([0-9]).ffn.*shexp.=CUDA0'",
        stops="--override-tensor blk.([0-9]).ffn.*shexp.=CUDA0: buffer types of this machine are CPU",
    ),
    Line(
        "guide for an AMD GPU",
        "--model M --device ROCm0 --ctx-size 4096 --gpu-layers all --flash-attn on --cache-type-k q8_0 --cache-type-v "
        "q8_0 --override-kv tokenizer.ggml.eos_token_id=int:68 --fit on --fit-target 8192 --alias apertus-v1.5-70b",
        stops="--device ROCm0: there is no such device. Devices of this machine: none",
    ),
    Line(
        "unit with an option of another program", "-m M -ngl 99 -c 32768 -fa -cnv --threads 8", stops="argument: -cnv"
    ),
    Line(
        "installer of a router",
        "--models-dir models --models-preset models.ini --models-max 1 --models-autoload --host 0.0.0.0 --metrics",
        stops="--models-preset is not supported: one process serves one model. Start one for each model",
    ),
    Line(
        "script with a projector", "-hf org/vl --mmproj-url https://host/m.gguf", stops="--mmproj-url is not supported"
    ),
)
SERVED = [pytest.param(line, marks=[pytest.mark.more] * line.more) for line in LINES if not line.stops]
REFUSED = [line for line in LINES if line.stops]


def adapted(line: Line, model: Path) -> tuple[list[str], dict[str, str]]:
    """The arguments and variables with a model of this machine, and without a port."""
    words, done = shlex.split(line.text), []
    while words:
        name, value = words.pop(0), ""
        if name in SOURCES or name in HERE:
            value = words.pop(0)
        if name in HERE:
            done += [name, HERE[name] if value != "-1" else value] if HERE[name] else []
        elif name in ("-m", "--model", "-hf", "--hf-repo"):
            done += ["-m", str(model)]
        elif name not in SOURCES:
            done.append(name)
    return done, {name: str(model) if value == "M" else value for name, value in line.environ.items()}


def ask(client: Client, line: Line) -> None:
    """One request that the model can answer."""
    if line.model == "reranker":
        assert len(client.post("/v1/rerank", query="one", documents=["one", "two"])["results"]) == 2
    elif "--embeddings" in line.text:
        assert client.post("/v1/embeddings", input="hello")["data"][0]["embedding"]
    else:
        messages = [{"role": "user", "content": "hello"}]
        answer = client.post("/v1/chat/completions", messages=messages, max_tokens=2)
        assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("line", SERVED, ids=lambda line: line.origin)
def test_a_command_line_serves(line, models, tmp_path):
    argv, environ = adapted(line, getattr(models, line.model)())
    warned = [text.split()[0] for text in options.parse(argv, environ).warnings if not text.startswith("other users")]
    assert sorted(warned) == sorted(line.differs.split())
    with ServerProcess(*argv, env=environ, cwd=tmp_path) as server:
        key = re.search(r"--api-key (\S+)", line.text)
        ask(Client(server.url, *([key[1]] if key else [])), line)


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line.origin)
def test_a_command_line_stops_with_the_reason(line, models, tmp_path):
    argv, environ = adapted(line, models.llama())
    with ServerProcess(*argv, env=environ, cwd=tmp_path, wait=False) as server:
        assert server.process.wait(60) == 2
        assert line.stops in server.log
