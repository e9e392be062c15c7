"""`make demo`: a real Kubernetes, our images, our chart, one LlamaServer, and one chat through its Service.

It runs until Ctrl-C. With `--once` it stops everything when the model has answered, and exits with 0.
"""

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools import model
from tools.cache import say

from . import product
from .cluster import ROOT, Cluster
from .diagnosis import diagnosis
from .forward import Relay
from .hub import Hub
from .prepare import prepare_demo

EXAMPLE = ROOT / "examples" / "smollm2.yaml"
NAMESPACE = "default"
FOLDER = Path("/tmp/llamaserver-demo")
_READY_SECONDS = 600
_CHAT_SECONDS = 300


def main() -> None:
    """Run the demo. The exit status is 1 when a step fails."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="take everything down after the first answer")
    parser.add_argument("--question", default="In one sentence: what is Kubernetes?", help="what the model is asked")
    parser.add_argument("--tokens", type=int, default=64, help="length of the answer at most (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the cluster lies (default: %(default)s)")
    chosen = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    demo = Demo(chosen.folder)
    try:
        with demo.running(chosen.question, chosen.tokens):
            if not chosen.once:
                say("\nCtrl-C stops the model, the cluster and everything in it.")
                stop.wait()
    except KeyboardInterrupt:
        say("stopped")
    except Failed as failure:
        sys.exit(f"\ndemo: {failure}")


class Failed(Exception):
    """A step of the demo failed. The text is for the user."""


def _interrupt(stop: threading.Event) -> None:
    if not stop.is_set():
        stop.set()
        raise KeyboardInterrupt


class Demo:
    """The cluster, the product on it and one served model."""

    def __init__(self, folder: Path) -> None:
        self._cluster = Cluster(folder)
        self._example = yaml.safe_load(EXAMPLE.read_text())
        self._name = self._example["metadata"]["name"]
        self._step = ""

    @contextlib.contextmanager
    def running(self, question: str, tokens: int) -> Iterator[None]:
        """The demo up to its first answer. When the block ends, everything is stopped.

        Every failure before the block is raised as Failed, with the step, the cause and what to try.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            try:
                relay = self._start(stack)
                self._begin(5, f"ask the model through its Service: {question}")
                say(f"\n  {_chat(relay.url, question, tokens)}\n")
                self._print_next_steps(relay)
            except (Exception, SystemExit) as error:  # the user has to act on every failure
                raise Failed(self._failure(error)) from error
            yield

    def _start(self, stack: contextlib.ExitStack) -> Relay:
        cluster = self._cluster
        self._begin(1, "get the programs and images (compiled at the first run, a quarter of an hour or more)")
        prepare_demo()
        self._begin(2, "start a Kubernetes with one node, and load both images")
        cluster.up()
        product.load_images(cluster)
        self._begin(3, "install the chart by helm, with a mirror of the model on this machine as huggingFace.endpoint")
        hub = stack.enter_context(Hub())
        source = self._example["spec"]["model"]["source"]["huggingFace"]
        hub.add(source["repo"], source.get("revision", "main"), source["file"], model.ensure())
        mirror = stack.enter_context(cluster.expose(hub.port))
        product.install(cluster, {"huggingFace": {"endpoint": mirror.url}})
        self._begin(4, f"kubectl apply -f {EXAMPLE.relative_to(ROOT)}")
        cluster.kubectl("apply", "--filename", str(EXAMPLE))
        self._wait_until_ready()
        return stack.enter_context(cluster.service(self._name, NAMESPACE))

    def _begin(self, number: int, text: str) -> None:
        self._step = f"[{number}/5] {text}"
        say(f"\n{self._step}")

    def _end(self) -> None:
        say("stopping everything")
        self._cluster.down()

    def _failure(self, error: BaseException) -> str:
        """The step that failed and the cause, with the facts that the cluster has about the object."""
        cause = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error) or type(error).__name__
        known = diagnosis(self._cluster.kubectl, self._name, NAMESPACE) if self._cluster.running else ""
        return "\n".join(part for part in (f"this step failed: {self._step}", cause, known) if part)

    def _wait_until_ready(self) -> None:
        """Print each condition when it changes. Raises as soon as only the user can help."""
        told: dict[str, str] = {}
        began = time.monotonic()
        while time.monotonic() < began + _READY_SECONDS:
            status = self._cluster.kubectl.get("llamaserver", self._name, NAMESPACE).get("status", {})
            for item in status.get("conditions", []):
                text = f"{item['status']} {item['reason']} {item.get('message', '')}".strip()
                if told.get(item["type"]) != text:
                    told[item["type"]] = text
                    say(f"  {time.monotonic() - began:5.0f} s  {item['type']:<15} {text}")
            if told.get("Ready", "").startswith("True"):
                return
            if told.get("Stalled", "").startswith("True"):
                raise RuntimeError(f"{self._name} cannot become Ready: {told['Stalled'].removeprefix('True ')}")
            time.sleep(0.5)
        raise RuntimeError(f"the object did not become Ready in {_READY_SECONDS} s")

    def _print_next_steps(self, relay: Relay) -> None:
        cluster = self._cluster
        say(cluster.kubectl("get", "llamaserver", self._name, "--output=wide").rstrip())
        kubectl = cluster.kubectl.command()[0]
        say(f"""
Next:
  export KUBECONFIG={cluster.kubeconfig}
  {kubectl} get llama -w
  {kubectl} explain llamaserver.spec
  curl {relay.url}/v1/chat/completions -d '{{"messages": [{{"role": "user", "content": "Hello!"}}]}}'
  the chat page: {relay.url}/""")


def _chat(url: str, question: str, tokens: int) -> str:
    """The model's answer. Raises OSError or RuntimeError when there is none."""
    messages = [{"role": "user", "content": question}]
    body = json.dumps({"messages": messages, "max_tokens": tokens, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_CHAT_SECONDS) as answer:
            reply: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"the server answered {error.code}: {error.read(1000).decode(errors='replace')}") from error
    text = str(reply["choices"][0]["message"]["content"]).strip()
    if not text:
        raise RuntimeError(f"an empty answer: {reply}")
    return text


if __name__ == "__main__":
    main()
