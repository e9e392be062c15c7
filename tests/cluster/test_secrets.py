"""API keys and TLS from Secrets: in force, and changed without a restart; probes and metrics need neither."""

import json
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dev.localcluster.forward import Relay
from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import Llama, get
from tests.support.polling import until
from tests.support.server import certificates

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def keys(namespace: str, **values: str) -> Object:
    about = {"name": "keys", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": about, "stringData": values}


def pair(namespace: str, files: tuple[Path, Path]) -> Object:
    about = {"name": "pair", "namespace": namespace}
    data = {"tls.crt": files[0].read_text(), "tls.key": files[1].read_text()}
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": about, "stringData": data}


def status(relay: Relay, key: str, trusted: Path) -> int:
    """What a completion over HTTPS answers, given a key and the only certificate that is trusted; 0: another one."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    url = f"https://localhost:{relay.port}/completion"
    request = urllib.request.Request(url, b'{"prompt": "Hello", "n_predict": 1}', headers)
    try:
        with urllib.request.urlopen(request, timeout=60, context=ssl.create_default_context(cafile=trusted)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            return 0
        raise


def test_keys_and_certificate_are_in_force_and_change_without_a_restart(llama: Llama, tmp_path: Path) -> None:
    old, new = certificates.make(tmp_path, "old"), certificates.make(tmp_path, "new")
    kubectl, namespace = llama.cluster.kubectl, llama.namespace
    kubectl.create(keys(namespace, team="key-1", other="key-2\nkey-3\n"), pair(namespace, old))
    security = {"apiKeysSecretRef": {"name": "keys"}, "tls": {"secretName": "pair"}}
    llama.apply(security=security).until_ready()  # so the probes do without key and TLS
    assert llama.object["status"]["endpoint"] == f"https://model.{namespace}.svc:8080"
    (pod,) = llama.pods

    with llama.service() as relay:
        assert [status(relay, key, old[0]) for key in ("key-1", "key-2", "key-3")] == [200] * 3
        assert [status(relay, key, old[0]) for key in ("", "key-4")] == [401] * 2
        assert status(relay, "key-1", new[0]) == 0
        with llama.pod_port(pod) as management:
            assert get(f"{management.url}/status")["state"] == "ready"
            with urllib.request.urlopen(f"{management.url}/metrics", timeout=10) as answer:
                assert re.search(r"(?m)^llamacpp:tokens_predicted_total [1-9]", answer.read().decode())

        for change in (keys(namespace, team="key-4"), pair(namespace, new)):
            kubectl("replace", "--filename=-", stdin=json.dumps(change))
        until(lambda: status(relay, "key-4", new[0]) == 200, "the new key and certificate are in force", 150, pause=0.5)
        assert [status(relay, key, new[0]) for key in ("key-1", "key-2", "key-3", "")] == [401] * 4
        assert status(relay, "key-4", old[0]) == 0
    (after,) = llama.pods
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    assert llama.condition("Ready")[:2] == ("True", "Serving")
