"""Converts the spec of an object to values and checks it.

The API server has checked it with the CRD. An older CRD may have accepted an object that is wrong today. Then this
check gives an error that names the field, instead of a broken pod.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from . import owned
from .errors import InvalidSpec
from .quantity import bytes_of
from .spec import Spec

# Short options are refused, because argparse reads -c512 as -c 512.
_MOST_ARGUMENTS = 32768  # characters of the arguments of a chat template
_SHORT = re.compile(r"-[A-Za-z]")


def parse(spec: Mapping[str, Any]) -> Spec:
    """The spec of an object as a value. InvalidSpec names the wrong field."""
    for field in _with_nul(spec, "spec"):
        raise InvalidSpec(f"{field}: contains a NUL character, which arguments, variables and file names cannot hold")
    try:
        parsed = msgspec.convert(spec, Spec)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise InvalidSpec(f"spec{path.rstrip('`')}: {text}") from None
    _check(parsed)
    return parsed


def _with_nul(value: Any, field: str) -> Iterator[str]:
    """Paths of fields whose text or key contains a NUL character."""
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
    _check_options(spec)
    for volume in spec.pod_template.volumes:
        _check_volume(volume, f"spec.podTemplate.volumes[{volume.get('name')}]")
    for adapter in spec.lora_adapters:
        if "," in adapter.source.place:  # the comma separates adapters on the command line of the server
            raise InvalidSpec(
                f"spec.loraAdapters[{adapter.name}].source: the path of an adapter must not contain a comma"
            )
    if len(json.dumps(spec.chat.template_arguments)) > _MOST_ARGUMENTS:
        raise InvalidSpec(f"spec.chat.templateArguments: more than {_MOST_ARGUMENTS} characters as JSON")
    if isinstance(spec.chat.template_arguments.get("enable_thinking"), str):
        raise InvalidSpec("spec.chat.templateArguments.enable_thinking: must be true or false, not a string")
    for field, text in _sizes(spec):
        try:
            bytes_of(text)
        except ValueError as error:
            raise InvalidSpec(f"spec.{field}: {error}") from None


def _check_options(spec: Spec) -> None:
    for argument in spec.engine.extra_args:
        if _SHORT.match(argument):
            raise InvalidSpec(f"spec.engine.extraArgs: {argument}: write options in their long form, --name")
        if means := owned.ARGUMENTS.get(flag := argument.partition("=")[0]):
            raise InvalidSpec(f"spec.engine.extraArgs: {flag} is {means}")
    for variable in spec.pod_template.env:
        if means := owned.VARIABLES.get(name := str(variable.get("name"))):
            raise InvalidSpec(f"spec.podTemplate.env: {name} is {means}")


def _check_volume(volume: Mapping[str, Any], field: str) -> None:
    if "hostPath" in volume:
        raise InvalidSpec(f"{field}.hostPath: hostPath is not allowed")
    if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ())):
        raise InvalidSpec(f"{field}.projected: ServiceAccount tokens are not allowed")


def _sizes(spec: Spec) -> Iterator[tuple[str, str]]:
    """Field and text of the quantities that the operator converts to numbers."""
    if spec.model.cache and (template := spec.model.cache.claim_template):
        yield "model.cache.claimTemplate.size", template.size
    if cache := spec.kv_cache:
        if cache.volume and (template := cache.volume.claim_template):
            yield "kvCache.volume.claimTemplate.size", template.size
        if cache.max_size:
            yield "kvCache.maxSize", cache.max_size
        if cache.host_memory:
            yield "kvCache.hostMemory", cache.host_memory
