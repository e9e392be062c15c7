"""The download's command line, read by the server's own parsers; its reports, read by the operator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamaserver import options, termination
from llamaserver.errors import DownloadError
from llamaserver.models import fetch, fetch_run
from llamaserver.models import spec as fetch_spec
from llamaserver_operator import names
from llamaserver_operator.conditions import model_available
from llamaserver_operator.files import model_files
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.pods import trouble
from llamaserver_operator.resources.pod import pod_template
from llamaserver_operator.status import status_of
from llamaserver_operator.view import View

from tests.contract.conftest import IMAGE
from tests.contract.recorded import Recorded
from tests.support.operator.specs import BASES
from tests.support.operator.worlds import CONFIG, NEWER, NOW, counts, pod, rolled_out, world
from tests.support.server.wire import Wire, answer

Raw = dict[str, Any]
DIGEST = "a" * 64
HUB = {"huggingFace": {"repo": "org/model", "revision": "v1", "file": "q4/model.gguf"}}
HTTP = {"http": {"url": "https://models.example/a%20b.gguf?download=true"}}
SPLIT = {"huggingFace": {"repo": "org/model", "file": "q4/big-00001-of-00003.gguf"}}
SPLIT_HTTP = {"http": {"url": "https://models.example/big-00001-of-00002.gguf?x=1"}}


def containers(raw: Raw, config: Any = CONFIG) -> tuple[Raw, Raw]:
    """Server and download of a pod."""
    pod = pod_template(parse(raw), "models", "demo", "image", config)["spec"]
    return pod["containers"][0], pod["initContainers"][0]


def arguments(container: Raw) -> Any:
    command, *rest = container["args"]
    assert command == "fetch"
    return fetch.parse(rest, IMAGE)


def _source(base: Raw) -> str:
    return str(next(iter(base["model"]["source"])))


@pytest.mark.parametrize("base", [base for base in BASES if model_files(parse(base)).downloads], ids=_source)
def test_the_download_brings_the_files_where_the_server_looks(base: Raw):
    server, download = containers(base)
    read = arguments(download)
    assert (read.models_dir, read.management_port) == (Path(names.MODELS_DIR), names.MANAGEMENT_PORT)
    assert read.owner == "models/demo"
    brought = {str(read.models_dir / file.path) for text in read.file for file in fetch_spec.wanted(text, {})}
    config = options.parse(server["args"], {})
    assert {config.model, config.mmproj, *(path for path, _ in config.lora)} - {""} == brought
    if config.models_use:
        assert set(config.models_use) == {file.key for text in read.file for file in fetch_spec.wanted(text, {})}
        assert config.models_owner == read.owner


@pytest.mark.parametrize(
    ("source", "urls"),
    [
        (HUB, ["https://huggingface.co/org/model/resolve/v1/q4/model.gguf"]),
        (HTTP, ["https://models.example/a%20b.gguf?download=true"]),
        ({"http": {"url": "https://models.example/$(A).gguf"}}, ["https://models.example/$(A).gguf"]),
        (SPLIT, [f"https://huggingface.co/org/model/resolve/main/q4/big-0000{i}-of-00003.gguf" for i in (1, 2, 3)]),
        (SPLIT_HTTP, [f"https://models.example/big-0000{i}-of-00002.gguf?x=1" for i in (1, 2)]),
    ],
    ids=["hub", "http", "dollar", "split", "split-http"],
)
def test_sources_and_digests_arrive(source: Raw, urls: list[str]):
    server, download = containers({"model": {"source": source, "sha256": DIGEST}})
    (text,) = arguments(download).file
    files = fetch_spec.wanted(text.replace("$$", "$"), {})
    assert [file.source.url for file in files] == urls
    assert [file.source.sha256 for file in files] == [DIGEST, *[""] * (len(urls) - 1)]
    model = options.parse(server["args"], {}).model.replace("$$", "$")
    assert model == f"{names.MODELS_DIR}/{files[0].path}"


def test_one_source_is_downloaded_once():
    server, download = containers({"model": {"source": HTTP}, "projector": {"source": HTTP}})
    assert len(arguments(download).file) == 1
    read = options.parse(server["args"], {})
    assert read.model == read.mmproj


def test_sources_of_one_file_name_do_not_collide():
    other = {"huggingFace": {**HUB["huggingFace"], "revision": "v2"}}
    with_digest = {"source": HUB, "sha256": DIGEST}
    adapters = [{"name": "a", "source": other}, {"name": "b", **with_digest}]
    _, download = containers({"model": {"source": HUB}, "loraAdapters": adapters})
    paths = [file.path for text in arguments(download).file for file in fetch_spec.wanted(text, {})]
    assert len(set(paths)) == 3
    assert {Path(path).name for path in paths} == {"model.gguf"}


def test_tokens_and_mirror_reach_the_download():
    raw = {"model": {"source": HUB, "credentialsSecretRef": {"name": "token"}}}
    _, download = containers(raw, NEWER)
    assert download["envFrom"] == [{"secretRef": {"name": "token"}}]
    environ = {item["name"]: item["value"] for item in download["env"]} | {"HF_TOKEN": "secret"}
    (file,) = fetch_spec.wanted(arguments(download).file[0], environ)
    assert file.source.url.startswith("http://mirror.example/org/model/")
    assert file.source.headers == (("Authorization", "Bearer secret"),)
    (file,) = fetch_spec.wanted(containers({"model": {"source": HTTP}})[1]["args"][-1], {"BEARER_TOKEN": "other"})
    assert file.source.headers == (("Authorization", "Bearer other"),)


@pytest.mark.parametrize(
    ("secret", "environ", "told"),
    [
        ({}, {}, "no token was sent (BEARER_TOKEN is not set). "
                 "Name a Secret with the key HF_TOKEN or BEARER_TOKEN in spec.model.credentialsSecretRef"),
        ({"name": "tok"}, {}, "no token was sent (BEARER_TOKEN is not set). Tokens are read from the keys "
                              'HF_TOKEN and BEARER_TOKEN of Secret "tok" (spec.model.credentialsSecretRef)'),
        ({"name": "tok"}, {"BEARER_TOKEN": "old"}, "the token in BEARER_TOKEN was refused. Tokens are read from the "
                                                   'keys HF_TOKEN and BEARER_TOKEN of Secret "tok" '
                                                   "(spec.model.credentialsSecretRef)"),
    ],
    ids=["no-secret", "no-such-key", "refused"],
)  # fmt: skip
async def test_a_refused_download_names_the_secret(secret: Raw, environ: Raw, told: str, tmp_path: Path):
    async with Wire(answer("401 Unauthorized")) as wire:
        model: Raw = {"source": {"http": {"url": f"{wire.url}/m.gguf"}}}
        made = pod_template(parse({"model": model | ({"credentialsSecretRef": secret} if secret else {})}), "models",
                            "demo", "image", CONFIG)["spec"]  # fmt: skip
        (file,) = fetch_spec.wanted(arguments(made["initContainers"][0]).file[0], environ)
        with pytest.raises(DownloadError) as failed:
            await fetch_run.fetch_all([file], tmp_path, fetch_run.Progress())
    log = tmp_path / "log"
    termination.write(str(log), failed.value.reason, str(failed.value))
    ended = {"exitCode": 1, "reason": "Error", "message": log.read_text()}
    container = {"name": "fetch", "state": {"terminated": ended}}
    found = trouble({**pod(initContainerStatuses=[container]), "spec": made})
    assert found
    assert (found.condition, found.reason) == ("ModelAvailable", "Unauthorized")
    assert found.message == f"{file.source.url} answered 401 Unauthorized; {told}"


def test_the_operator_reads_what_the_download_reports():
    spec = parse({"model": {"source": HUB}})
    progress = fetch_run.Progress("k/model.gguf", {"k/model.gguf": 4 * 2**30}, {"k/model.gguf": 2**30}, False, "slow")
    report = Recorded(progress.status())
    plan = make_plan(spec, world(spec), CONFIG)
    observed = rolled_out(spec, plan, [pod()], counts(1, 1, 0), reports={"new-0": report})
    found = model_available(View(spec, observed, (), NOW))
    assert (found.reason, found.message) == ("Downloading", "k/model.gguf: 1.00 of 4.00 GiB; slow")
    status = status_of(View(spec, observed, plan.problems, NOW))
    assert status["download"] == {"bytes": 2**30, "totalBytes": 4 * 2**30}
    assert report.missing == set()
    progress.waiting = True
    waiting = replace(observed, reports={"new-0": progress.status()})
    assert model_available(View(spec, waiting, (), NOW)).reason == "WaitingForDownload"
