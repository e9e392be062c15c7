"""The provisioner of the class `local-test`: `python -m dev.localcluster.provisioner KUBECONFIG FOLDER`."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .kubectl import Kubectl, KubectlError, Object
from .storage import CLASS, PROVISIONER, volume

_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_ASKED = "volume.kubernetes.io/storage-provisioner"
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_PAUSE_SECONDS = 1.0


class Provisioner:
    """Makes volumes for claims of the class `local-test`, and deletes volumes whose claim is gone."""

    def __init__(self, kubectl: Kubectl, folder: Path) -> None:
        self._kubectl, self._folder = kubectl, folder

    def run(self) -> None:
        """Work until the program ends."""
        with ThreadPoolExecutor() as pool:
            pool.submit(self._watch, "persistentvolumeclaims", self._provision)
            pool.submit(self._watch, "persistentvolumes", self._reclaim)

    def _watch(self, kind: str, act: Callable[[Object], None]) -> None:
        command = self._kubectl.command("get", kind, "--all-namespaces", "--watch", "--output=json")
        while True:  # a watch ends when the API server does
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                text = ""
                for line in process.stdout:
                    text += line
                    if line.rstrip() == "}":  # the end of one object, as kubectl indents
                        self._try(act, json.loads(text))
                        text = ""
            time.sleep(_PAUSE_SECONDS)

    def _try(self, act: Callable[[Object], None], item: Object) -> None:
        try:
            act(item)
        except (KubectlError, OSError) as error:
            print(error, file=sys.stderr, flush=True)

    def _provision(self, claim: Object) -> None:
        meta, spec = claim["metadata"], claim["spec"]
        notes = meta.get("annotations", {})
        if spec.get("volumeName") or notes.get(_ASKED) != PROVISIONER or _SELECTED_NODE not in notes:
            return
        name = f"pvc-{meta['uid']}"
        folder = self._folder / name
        if folder.exists():
            return
        size = spec["resources"]["requests"]["storage"]
        made = volume(name, folder, size, spec["accessModes"], storage_class=CLASS, node=notes[_SELECTED_NODE])
        made["metadata"]["annotations"] = {_PROVISIONED_BY: PROVISIONER}
        made["spec"]["persistentVolumeReclaimPolicy"] = "Delete"
        reference = {key: meta[key] for key in ("namespace", "name", "uid")}
        made["spec"]["claimRef"] = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference}
        self._kubectl.create(made)

    def _reclaim(self, item: Object) -> None:
        meta, spec = item["metadata"], item["spec"]
        ours = meta.get("annotations", {}).get(_PROVISIONED_BY) == PROVISIONER
        released = item.get("status", {}).get("phase") == "Released"
        if ours and released and spec["persistentVolumeReclaimPolicy"] == "Delete":
            shutil.rmtree(spec["local"]["path"], ignore_errors=True)
            self._kubectl.delete("persistentvolume", meta["name"], wait=False)


if __name__ == "__main__":
    Provisioner(Kubectl(Path(sys.argv[1])), Path(sys.argv[2])).run()
