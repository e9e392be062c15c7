"""From the spec of an object to values, checked.

The API server has admitted it. It is checked again, so that an object which an older CRD let in gives an
error that names the field instead of a broken pod.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .errors import InvalidSpec
from .quantity import bytes_of
from .spec import Spec

# Options that fields of the spec, or the operator, set: every long spelling that the server knows. A contract test
# holds the list against the server's own table. Short ones are all refused: argparse takes -c512 for -c 512.
OWNED_ARGUMENTS = frozenset(
    """
    --model --model-url --hf-repo --hf-file --hf-token --hf-revision --model-sha256 --models-dir --models-owner
    --models-use --alias --lora --lora-scaled --mmproj --chat-template --chat-template-file --system-prompt-file
    --ctx-size --parallel --cont-batching --no-cont-batching --batch-size --ubatch-size --grp-attn-n --grp-attn-w
    --cache-type-k --cache-type-v --flash-attn --rope-scaling --rope-freq-base --rope-freq-scale --rope-scale
    --yarn-orig-ctx --embedding --embeddings --pooling --threads --gpu-layers --n-gpu-layers --main-gpu --split-mode
    --tensor-split --require-offload --host --port --management-host --management-port --api-key --api-key-file
    --ssl-key-file --ssl-cert-file --timeout --max-queue --slots --no-slots --slots-endpoint-disable
    --slot-save-path --cache-ram --kv-store --kv-store-mode --kv-store-max-bytes --kv-store-ttl --kv-store-min-tokens
    --drain-delay --drain-timeout --save-timeout --stay-on-load-error --log-disable --termination-log
    """.split()  # noqa: SIM905  one long list that reads as a text
)
_SHORT = re.compile(r"-[A-Za-z]")


def parse(spec: Mapping[str, Any]) -> Spec:
    """The spec of an object; InvalidSpec names the field."""
    for field in _with_nul(spec, "spec"):
        raise InvalidSpec(f"{field}: has a NUL character, which no argument, variable or file name can hold")
    try:
        parsed = msgspec.convert(spec, Spec)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise InvalidSpec(f"spec{path.rstrip('`')}: {text}") from None
    _check(parsed)
    return parsed


def _with_nul(value: Any, field: str) -> Iterator[str]:
    """Fields whose texts, or whose keys, have a NUL character."""
    if isinstance(value, str) and "\0" in value:
        yield field
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _with_nul(key, field)
            yield from _with_nul(item, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _with_nul(item, f"{field}[{index}]")


def _check(spec: Spec) -> None:
    for argument in spec.engine.extra_args:
        if _SHORT.match(argument):
            raise InvalidSpec(f"spec.engine.extraArgs: {argument}: write options in their long form, --name")
        if (flag := argument.partition("=")[0]) in OWNED_ARGUMENTS:
            raise InvalidSpec(f"spec.engine.extraArgs: {flag} belongs to a field of this object or to the operator")
    for volume in spec.pod_template.volumes:
        _check_volume(volume, f"spec.podTemplate.volumes[{volume.get('name')}]")
    for adapter in spec.lora_adapters:
        if "," in adapter.source.place:  # it separates adapters on the server's command line
            raise InvalidSpec(
                f"spec.loraAdapters[{adapter.name}].source: a file of an adapter has no comma in its path"
            )
    for field, text in _sizes(spec):
        try:
            bytes_of(text)
        except ValueError as error:
            raise InvalidSpec(f"spec.{field}: {error}") from None


def _check_volume(volume: Mapping[str, Any], field: str) -> None:
    if "hostPath" in volume:
        raise InvalidSpec(f"{field}.hostPath: hostPath is not allowed")
    if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ())):
        raise InvalidSpec(f"{field}.projected: pods get no token of a ServiceAccount")


def _sizes(spec: Spec) -> Iterator[tuple[str, str]]:
    """The quantities that the operator computes with."""
    if spec.model.cache and (template := spec.model.cache.claim_template):
        yield "model.cache.claimTemplate.size", template.size
    if cache := spec.kv_cache:
        if cache.volume and (template := cache.volume.claim_template):
            yield "kvCache.volume.claimTemplate.size", template.size
        if cache.max_size:
            yield "kvCache.maxSize", cache.max_size
        if cache.host_memory:
            yield "kvCache.hostMemory", cache.host_memory
