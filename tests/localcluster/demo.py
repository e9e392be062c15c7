"""`make demo`: a real Kubernetes on this machine, our images, our chart, one LlamaServer, one chat through its Service.

Runs until Ctrl-C; `--once` tears everything down and exits 0 when the model has answered.
"""

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools import model
from tools.cache import say

from . import product
from .binaries import Missing
from .cluster import ROOT, Cluster
from .forward import Relay
from .hub import Hub

EXAMPLE = ROOT / "examples" / "smollm2.yaml"
FOLDER = Path("/tmp/llamaserver-demo")
_READY_SECONDS = 600
_QUESTION = "In one sentence: what is Kubernetes?"


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="tear everything down after the first answer")
    chosen = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    try:
        with _running():
            if not chosen.once:
                say("\nCtrl-C stops the model, the cluster and everything in it.")
                stop.wait()
    except KeyboardInterrupt:
        say("stopped")
    except (Missing, RuntimeError, AssertionError) as error:
        sys.exit(f"demo: {error}")


def _interrupt(stop: threading.Event) -> None:
    if not stop.is_set():
        stop.set()
        raise KeyboardInterrupt


@contextlib.contextmanager
def _running() -> Iterator[None]:
    """The demo up to its first answer; everything goes when the block ends."""
    cluster = Cluster(FOLDER)
    example = yaml.safe_load(EXAMPLE.read_text())
    with contextlib.ExitStack() as stack:
        stack.callback(_end, cluster)
        _step(1, "a real one-node Kubernetes")
        cluster.up()
        _step(2, "our two images, built and loaded (the first build compiles llama.cpp: some minutes)")
        product.load_images(cluster)
        _step(3, "our chart, by helm; its huggingFace.endpoint is a mirror of one model on this machine")
        hub = stack.enter_context(Hub())
        source = example["spec"]["model"]["source"]["huggingFace"]
        hub.add(source["repo"], source.get("revision", "main"), source["file"], model.ensure())
        mirror = stack.enter_context(cluster.expose(hub.port))
        product.install(cluster, {"huggingFace": {"endpoint": mirror.url}})
        _step(4, f"kubectl apply -f {EXAMPLE.relative_to(ROOT)}")
        cluster.kubectl("apply", "--filename", str(EXAMPLE))
        name = example["metadata"]["name"]
        _wait_until_ready(cluster, name)
        relay = stack.enter_context(cluster.service(name, "default"))
        _step(5, f"a chat completion through the Service: {_QUESTION}")
        say(f"\n  {_chat(relay.url)}\n")
        _tell_how_to_go_on(cluster, name, relay)
        yield


def _step(number: int, text: str) -> None:
    say(f"\n[{number}/5] {text}")


def _end(cluster: Cluster) -> None:
    say("taking everything down")
    cluster.down()


def _wait_until_ready(cluster: Cluster, name: str) -> None:
    """Tell each condition as it changes."""
    told: dict[str, str] = {}
    began = time.monotonic()
    while time.monotonic() < began + _READY_SECONDS:
        status = cluster.kubectl.get("llamaserver", name, "default").get("status", {})
        for item in status.get("conditions", []):
            text = f"{item['status']} {item['reason']} {item.get('message', '')}".strip()
            if told.get(item["type"]) != text:
                told[item["type"]] = text
                say(f"  {time.monotonic() - began:5.0f} s  {item['type']:<15} {text}")
        if told.get("Ready", "").startswith("True"):
            return
        if told.get("Stalled", "").startswith("True"):
            raise RuntimeError(f"waiting for {name} is in vain: {told['Stalled'].removeprefix('True ')}")
        time.sleep(0.5)
    pods = cluster.kubectl("describe", "pods", "--namespace=default")
    raise RuntimeError(f"the object did not become Ready in {_READY_SECONDS} s\n{pods}")


def _chat(url: str) -> str:
    messages = [{"role": "user", "content": _QUESTION}]
    body = json.dumps({"messages": messages, "max_tokens": 64, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        reply: dict[str, Any] = json.load(answer)
    text = str(reply["choices"][0]["message"]["content"]).strip()
    if not text:
        raise RuntimeError(f"an empty answer: {reply}")
    return text


def _tell_how_to_go_on(cluster: Cluster, name: str, relay: Relay) -> None:
    say(cluster.kubectl("get", "llamaserver", name, "--output=wide").rstrip())
    kubectl = cluster.kubectl.command()[0]
    say(f"""
Go on:
  export KUBECONFIG={cluster.kubeconfig}
  {kubectl} get llama -w
  {kubectl} explain llamaserver.spec
  curl {relay.url}/v1/chat/completions -d '{{"messages": [{{"role": "user", "content": "Hello!"}}]}}'
  the chat page: {relay.url}/""")


if __name__ == "__main__":
    main()
