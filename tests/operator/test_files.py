"""The path of each file."""

from typing import Any

import pytest
from llamaserver_operator.files import ModelFile, model_files
from llamaserver_operator.parsing import parse

Raw = dict[str, Any]
HUB: Raw = {"huggingFace": {"repo": "org/model", "revision": "v1", "file": "q4/model.gguf"}}


def http(url: str) -> Raw:
    return {"http": {"url": url}}


def first(source: Raw, **more: str) -> ModelFile:
    return model_files(parse({"model": {"source": source, **more}})).model


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (HUB, "model.gguf"),
        (http("http://h/a/b.gguf"), "b.gguf"),
        (http("http://h/a/b.gguf?download=true#x"), "b.gguf"),
        (http("http://h/a/b.gguf/"), "b.gguf"),
        ({"persistentVolumeClaim": {"claimName": "c", "path": "x/y.gguf"}}, "y.gguf"),
        ({"image": {"reference": "i", "path": "y.gguf"}}, "y.gguf"),
    ],
)
def test_file_names(source: Raw, name: str):
    assert first(source).name == name


def test_the_folder_of_a_download_is_that_of_its_source_and_digest():
    key = first(HUB).key
    assert key.startswith("hf-")
    assert first(http("http://h/m.gguf")).key.startswith("http-")
    part = HUB["huggingFace"]
    others = [
        {"huggingFace": {**part, "repo": "org/other"}},
        {"huggingFace": {**part, "revision": "v2"}},
        {"huggingFace": {**part, "file": "q8/model.gguf"}},
    ]
    keys = {first(other).key for other in others} | {key, first(HUB, sha256="a" * 64).key, first(HUB, alias="x").key}
    assert len(keys) == 5, "an alias is not of the source"


def test_folders_stay_where_they_are():
    """A model that was downloaded must be found again by every later version."""
    assert first(HUB).path == "/models/hf-e86636fa9e13/model.gguf"
    assert first(http("http://h/m.gguf"), sha256="a" * 64).path == "/models/http-ea7914b92434/m.gguf"


def test_mounted_files_are_no_downloads():
    claim = {"persistentVolumeClaim": {"claimName": "c", "path": "x/y.gguf"}}
    raw = {"model": {"source": claim}, "loraAdapters": [{"name": "a", "source": HUB}], "projector": {"source": claim}}
    files = model_files(parse(raw))
    assert [file.path for file in files] == ["/sources/0/x/y.gguf", files.adapters[0].path, "/sources/2/x/y.gguf"]
    assert files.downloads == [files.adapters[0]]


def test_a_source_that_is_named_twice_is_downloaded_once():
    raw = {"model": {"source": HUB}, "loraAdapters": [{"name": "a", "source": HUB}], "projector": {"source": HUB}}
    files = model_files(parse(raw))
    assert len(list(files)) == 3
    assert len(files.downloads) == 1
