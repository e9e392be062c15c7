"""PersistentVolumes of type `local`: made by hand, or for each claim of the class `local-test`.

Directories belong to root and have mode 0700. So a pod without the right fsGroup cannot use them.
"""

from pathlib import Path

from . import addresses
from .kubectl import Object

CLASS = "local-test"
STATIC_CLASS = "local-static"
PROVISIONER = "llamaserver.dev/local-test"


def classes() -> list[Object]:
    """The storage classes. The first is the default and has a provisioner. The second has none."""

    def storage_class(name: str, provisioner: str, annotations: dict[str, str]) -> Object:
        return {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name, "annotations": annotations},
            "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        }

    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    static = storage_class(STATIC_CLASS, "kubernetes.io/no-provisioner", {})
    return [storage_class(CLASS, PROVISIONER, default), static]


def volume(
    name: str, folder: Path, size: str, modes: list[str], *, storage_class: str = STATIC_CLASS, node: str = ""
) -> Object:
    """A local volume in a new folder."""
    folder.mkdir(mode=0o700, parents=True)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node or addresses.NODE_NAME]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": modes,
            "storageClassName": storage_class,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
