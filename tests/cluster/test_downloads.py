"""Downloads: with a token, once for all pods of a claim, gone on with after a crash, gone when nobody names them."""

import hashlib
from pathlib import Path

import pytest

from dev.localcluster.hub import Hub
from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import Llama, get
from tests.support.models import Models
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SIZE = 8 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Models(tmp_path).llama()


@pytest.fixture
def large(tiny: Path) -> Path:
    """The same with zeros behind its end, which llama.cpp does not mind."""
    path = tiny.with_name("large.gguf")
    path.write_bytes(tiny.read_bytes().ljust(SIZE, b"\0"))
    return path


def in_hub(repo: str, file: str) -> Object:
    return {"source": {"huggingFace": {"repo": repo, "file": file}}}


def folder_of(llama: Llama, claim: str) -> Path:
    """Where this machine has a claim's files."""
    volume = llama.child("persistentvolumeclaim", claim)["spec"]["volumeName"]
    return Path(llama.cluster.kubectl.get("persistentvolume", volume)["spec"]["local"]["path"])


def report_of(llama: Llama, pod: Object) -> Object:
    """What a pod's download says; empty where none runs."""
    states = pod["status"].get("initContainerStatuses", [])
    if not pod["status"].get("podIP") or not any("running" in state["state"] for state in states):
        return {}
    try:
        with llama.pod_port(pod) as management:
            return get(f"{management.url}/status")
    except OSError:
        return {}  # it has not come that far, or has ended


def reports(llama: Llama) -> list[Object]:
    """What the downloads of an object's pods say."""
    return [report for pod in llama.pods if (report := report_of(llama, pod))]


def create_secret(llama: Llama, name: str, values: dict[str, str]) -> None:
    about = {"name": name, "namespace": llama.namespace}
    llama.cluster.kubectl.create({"apiVersion": "v1", "kind": "Secret", "metadata": about, "stringData": values})


def test_a_token_opens_what_is_not_public(llama: Llama, hub: Hub, tiny: Path) -> None:
    url = hub.add("private/models", "main", "tiny.gguf", tiny, token="secret-1")
    llama.apply(model=in_hub("private/models", "tiny.gguf"))
    by_url = Llama(llama.cluster, llama.namespace, "by-url")
    by_url.apply(model={"source": {"huggingFace": None, "http": {"url": f"{url}?download=true"}}})
    both = ((llama, "HF_TOKEN"), (by_url, "BEARER_TOKEN"))
    for each, token in both:
        message = each.until_condition("ModelAvailable", "False", "Unauthorized")
        assert url in message and f" answered 401 Unauthorized; no token was sent ({token} is not set)" in message
        assert "Name a Secret with the key HF_TOKEN or BEARER_TOKEN in spec.model.credentialsSecretRef" in message
    create_secret(llama, "wrong", {"HF_TOKEN": "secret-2", "BEARER_TOKEN": "secret-2"})
    create_secret(llama, "tokens", {"HF_TOKEN": "secret-1\n", "BEARER_TOKEN": "secret-1"})
    for each, _ in both:
        each.apply(model={"credentialsSecretRef": {"name": "wrong"}})
    for each, token in both:
        message = each.until_condition("ModelAvailable", "False", "Unauthorized")
        assert f"; the token in {token} was refused. Tokens are read from the keys" in message
        assert 'of Secret "wrong" (spec.model.credentialsSecretRef)' in message
        assert "secret-2" not in str(each.object["status"])
    for each, _ in both:
        each.apply(model={"credentialsSecretRef": {"name": "tokens"}})
    for each in (llama, by_url):
        each.until_ready()
        assert each.complete()["tokens_predicted"]
        assert each.object["status"]["model"]["file"] == "tiny.gguf"


def test_an_outage_of_the_hub_is_told_and_passes(llama: Llama, hub: Hub, large: Path) -> None:
    hub.add("outage/models", "main", "large.gguf", large)
    with hub.held("outage/models"):
        with hub.failing("outage/models"):
            llama.apply(model=in_hub("outage/models", "large.gguf"), rollout={"progressDeadlineSeconds": 600})
            until(lambda: ", attempt " in llama.condition("ModelAvailable")[2], "an attempt is told", 60)
            status, reason, message = llama.condition("ModelAvailable")
            assert (status, reason) == ("False", "Downloading")
            assert "/large.gguf: the server answered 503 Service Unavailable, attempt " in message
            assert " of 6, next attempt in " in message
            message = llama.until_condition("ModelAvailable", "False", "DownloadFailed")
            assert message.endswith(": the server answered 503 Service Unavailable, 6 times")
        llama.until_condition("ModelAvailable", "False", "Downloading")
        assert llama.condition("Progressing")[:2] == ("True", "RollingOut")
        llama.apply(rollout={"progressDeadlineSeconds": 60})
        message = llama.until_condition("Progressing", "False", "ProgressDeadlineExceeded")
        assert "timed out progressing" in message
        assert llama.condition("Ready")[:2] == ("False", "Downloading")  # which says more
    llama.until_ready()
    assert llama.condition("Progressing")[:2] == ("True", "Complete")


def test_pods_of_one_claim_download_once_and_go_on_after_crashes(llama: Llama, hub: Hub, large: Path) -> None:
    hub.add("shared/models", "main", "large.gguf", large)
    model = {
        **in_hub("shared/models", "large.gguf"),
        "sha256": hashlib.sha256(large.read_bytes()).hexdigest(),
        "cache": {"claimTemplate": {"size": "64Mi", "accessModes": ["ReadWriteMany"]}},
    }
    other = Llama(llama.cluster, llama.namespace, "other")
    with hub.held("shared/models"):
        llama.apply(model=model, replicas=2)
        llama.until_condition("ModelAvailable", "False", "Downloading")
        until(lambda: llama.object["status"].get("download") == {"bytes": SIZE // 2, "totalBytes": SIZE}, "half of it")
        message = llama.condition("ModelAvailable")[2]
        assert message.endswith("large.gguf: 4 of 8 MiB"), message
        until(lambda: sorted(each["waiting_for_lock"] for each in reports(llama)) == [False, True], "one waits", 60)
        assert len(hub.downloads("shared/models")) == 1
        # Another object with the same source on the same claim waits, too, and says so.
        other.apply(model={**model, "cache": {"claimName": "model-model-cache"}})
        other.until_condition("ModelAvailable", "False", "WaitingForDownload")

        for end in (kill_process, kill_pod):
            before = len(hub.downloads("shared/models"))
            end(llama, downloading(llama))
            until(lambda: len(hub.downloads("shared/models")) > before, "the download goes on", 90)  # noqa: B023
    llama.until_ready()
    other.until_ready()
    first, *later = [download.start for download in hub.downloads("shared/models")]
    assert first == 0
    assert all(0 < start <= SIZE // 2 for start in later), "each goes on with what is there"
    assert llama.object["status"]["model"]["sha256"] == model["sha256"]
    assert "download" not in llama.object["status"]


def downloading(llama: Llama) -> Object:
    """The pod, among all that mount the claim, that does not wait for another's download."""

    def found() -> Object:
        selector = "app.kubernetes.io/name=llamaserver"
        for pod in llama.cluster.kubectl.items("pods", namespace=llama.namespace, selector=selector):
            report = report_of(llama, pod)
            if report and report["download"]["bytes"] and not report["waiting_for_lock"]:
                return dict(pod)
        return {}

    return until(found, "a pod downloads", 60, pause=0.5)


def kill_process(llama: Llama, pod: Object) -> None:
    llama.cluster.signal_container(llama.namespace, pod["metadata"]["name"], "SIGKILL", "fetch")


def kill_pod(llama: Llama, pod: Object) -> None:
    llama.cluster.kubectl.delete("pod", pod["metadata"]["name"], llama.namespace, wait=False)


def test_what_is_kept_is_not_downloaded_again_and_goes_when_nobody_names_it(
    llama: Llama, hub: Hub, tiny: Path, large: Path
) -> None:
    hub.add("kept/models", "main", "first.gguf", tiny)
    hub.add("kept/models", "main", "second.gguf", large)
    cache = {"claimTemplate": {"size": "64Mi"}}
    model = {**in_hub("kept/models", "first.gguf"), "cache": cache}
    llama.apply(model=model, engine={"extraArgs": ["--models-prune-after=4"]}).until_ready()
    folder = folder_of(llama, "model-model-cache")
    (first,) = folder.glob("*/first.gguf")

    before = llama.pod_uids
    llama.cluster.kubectl("rollout", "restart", "deployment/model", f"--namespace={llama.namespace}")
    until(lambda: llama.pod_uids and not llama.pod_uids & before, "another pod", 60)
    llama.until_ready()
    assert len(hub.downloads("kept/models")) == 1

    llama.apply(model=in_hub("kept/models", "second.gguf")).until_ready()
    until(lambda: not first.parent.exists(), "the first model's folder is gone", 60)
    assert list(folder.glob("*/second.gguf"))
    assert [each.path.rpartition("/")[2] for each in hub.downloads("kept/models")] == ["first.gguf", "second.gguf"]


CACHE = {"claimTemplate": {"size": "64Mi"}}


def test_a_web_page_is_no_model_and_a_repaired_server_is_enough(llama: Llama, hub: Hub, tiny: Path) -> None:
    url = hub.add("pages/models", "main", "tiny.gguf", tiny)
    with hub.failing("pages/models", 200):
        llama.apply(model={"source": {"huggingFace": None, "http": {"url": f"{url}?sig=secret-3"}}, "cache": CACHE})
        message = llama.until_condition("ModelAvailable", "False", "NotGGUF")
        assert f'{url}?… is not a GGUF file: it begins with "<!DOCTYPE html>"; it was sent as text/html. ' in message
        assert message.endswith("Is a sign-in or another URL needed? The download was discarded")
        assert "secret-3" not in str(llama.object["status"])
        folder = folder_of(llama, "model-model-cache")
        # The container tries again, so files of the next try may be there for a moment.
        until(lambda: not list(folder.glob("*/tiny.gguf*")), "the discarded download leaves no file", 60)
    llama.until_ready()
    assert llama.complete()["tokens_predicted"]


def test_a_page_that_an_older_version_kept_is_replaced(llama: Llama, hub: Hub, tiny: Path) -> None:
    hub.add("stale/models", "main", "tiny.gguf", tiny)
    llama.apply(model={**in_hub("stale/models", "tiny.gguf"), "cache": CACHE}).until_ready()
    (model,) = folder_of(llama, "model-model-cache").glob("*/tiny.gguf")
    model.with_name("tiny.gguf.origin").unlink()
    page = model.with_name("page")
    page.write_text("<!DOCTYPE html>")
    page.replace(model)
    replace_pods(llama)
    llama.until_ready()
    assert model.read_bytes() == tiny.read_bytes()
    assert len(hub.downloads("stale/models")) == 2


def test_a_model_that_does_not_load_is_asked_for_again_by_each_new_pod(
    llama: Llama, hub: Hub, tiny: Path, tmp_path: Path
) -> None:
    url = hub.add("mended/models", "main", "tiny.gguf", Models(tmp_path).unknown())
    llama.apply(model={**in_hub("mended/models", "tiny.gguf"), "cache": CACHE})
    message = llama.until_condition("ModelAvailable", "False", "ModelLoadFailed")
    assert "unknown model architecture: 'no-such-architecture'; the file is from the cache, downloaded at 2" in message
    assert f" from {url}; the next start checks whether the server has another file" in message
    assert message.endswith(". Each new pod starts with the download")
    replace_pods(llama)
    until(lambda: len(hub.downloads("mended/models")) == 2, "the next pod asks", 60)
    assert llama.until_condition("ModelAvailable", "False", "ModelLoadFailed") == message  # it has kept the file
    hub.add("mended/models", "main", "tiny.gguf", tiny)
    replace_pods(llama)
    llama.until_ready()
    assert llama.complete()["tokens_predicted"]
    asked = len(hub.downloads("mended/models"))
    replace_pods(llama)
    llama.until_ready()
    assert len(hub.downloads("mended/models")) == asked, "a file that loads is asked for no more"


def replace_pods(llama: Llama) -> None:
    before = llama.pod_uids
    for pod in llama.pods:
        kill_pod(llama, pod)
    until(lambda: llama.pod_uids and not llama.pod_uids & before, "another pod", 60)
