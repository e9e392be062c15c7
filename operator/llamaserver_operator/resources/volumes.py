"""The volumes of a pod and their mounts."""

from dataclasses import dataclass, field

from .. import names
from ..files import ModelFiles
from ..manifests import Manifest
from ..spec import KvVolume, ModelCache, Spec, Text

_TMP = "1Gi"  # most of /tmp, which is on the disk of the node


@dataclass(slots=True)
class Volumes:
    """The volumes of the pod, and the mounts of the server and of the download."""

    volumes: list[Manifest] = field(default_factory=list)
    server: list[Manifest] = field(default_factory=list)
    fetch: list[Manifest] = field(default_factory=list)

    def add(self, name: str, volume: Manifest, mount_path: str, *, read_only: bool = True) -> None:
        """Add a volume and mount it into the server.

        A claim becomes one volume, however often it is named. With two volumes of one claim, the kubelet waits forever.
        """
        claim = volume.get("persistentVolumeClaim", {})
        for known in self.volumes if claim else ():
            have = known.get("persistentVolumeClaim", {})
            if have.get("claimName") == claim["claimName"]:
                if not claim.get("readOnly"):
                    have.pop("readOnly", None)
                self.server.append(_mount(known["name"], mount_path, read_only=read_only))
                return
        self.volumes.append({"name": name, **volume})
        self.server.append(_mount(name, mount_path, read_only=read_only))


def _mount(name: str, path: str, *, read_only: bool) -> Manifest:
    mount: Manifest = {"name": name, "mountPath": path}
    return {**mount, "readOnly": True} if read_only else mount


def _claim(name: str, *, read_only: bool = False) -> Manifest:
    source: Manifest = {"claimName": name}
    return {"persistentVolumeClaim": {**source, "readOnly": True} if read_only else source}


def pod_volumes(spec: Spec, files: ModelFiles, name: str) -> Volumes:
    """All volumes of a pod."""
    made = Volumes()
    made.add("tmp", {"emptyDir": {"sizeLimit": _TMP}}, "/tmp", read_only=False)  # noqa: S108 - the root is read-only
    if files.downloads:
        cache = spec.model.cache
        # On a claim, the server marks the files in use and deletes unused ones. Therefore it may write there.
        made.add("models", _models(cache, name), names.MODELS_DIR, read_only=cache is None)
        made.fetch = [_mount("models", names.MODELS_DIR, read_only=False), _mount("tmp", "/tmp", read_only=False)]  # noqa: S108
    for file in files:
        where = f"{names.SOURCES_DIR}/{file.index}"
        if part := file.source.persistent_volume_claim:
            made.add(f"source-{file.index}", _claim(part.claim_name, read_only=True), where)
        if image := file.source.image:
            made.add(f"source-{file.index}", {"image": {"reference": image.reference}}, where)
    if spec.kv_cache and (volume := spec.kv_cache.volume):
        made.add("kv", _kv(volume, name), names.KV_DIR, read_only=False)
    if spec.kv_cache and spec.kv_cache.stores and (key := spec.kv_cache.integrity_secret_ref):
        only = [{"key": "key", "path": "key"}]
        made.add("kv-key", {"secret": {"secretName": key.name, "items": only}}, names.KV_KEY_DIR)
    if sources := [_text(path, text, names.config_map(name, spec.inline_texts)) for path, text in spec.texts.items()]:
        made.add("config", {"projected": {"sources": sources}}, names.CONFIG_DIR)
    if keys := spec.security.api_keys_secret_ref:
        made.add("api-keys", {"secret": {"secretName": keys.name}}, names.API_KEYS_DIR)
    if tls := spec.security.tls:
        made.add("tls", {"secret": {"secretName": tls.secret_name}}, names.TLS_DIR)
    made.volumes += spec.pod_template.volumes
    made.server += spec.pod_template.volume_mounts
    made.fetch += spec.pod_template.volume_mounts
    return made


def _models(cache: ModelCache | None, name: str) -> Manifest:
    if cache is None:
        return {"emptyDir": {}}
    return _claim(cache.claim_name or names.model_claim(name))


def _kv(volume: KvVolume, name: str) -> Manifest:
    if volume.empty_dir:
        limit = volume.empty_dir.size_limit
        return {"emptyDir": {"sizeLimit": limit} if limit else {}}
    return _claim(volume.claim_name or names.kv_claim(name))


def _text(path: str, text: Text, inline: str) -> Manifest:
    reference = text.config_map_key_ref
    source, key = (reference.name, reference.key) if reference else (inline, path)
    return {"configMap": {"name": source, "items": [{"key": key, "path": path}]}}
