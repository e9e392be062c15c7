"""The chat page's libraries are those of the lock, byte for byte."""

import re

import pytest

from tools import web_libraries


def test_the_versions_are_those_of_the_lock():
    files = web_libraries.vendored()
    for library in web_libraries.libraries():
        (code,) = [data for name, data in files.items() if re.match(rf"{library.name}/.*js$", name)]
        assert library.version in code[:200].decode()


def test_each_has_its_licence():
    files = web_libraries.vendored()
    assert {name for name in files if name.endswith("/LICENSE")} == {f"{name}/LICENSE" for name in web_libraries.FILES}
    assert b"Apache License" in files["dompurify/LICENSE"]
    assert b"Permission is hereby granted, free of charge" in files["marked/LICENSE"]


@pytest.mark.slow  # npm fetches them
def test_the_files_are_those_of_the_packages():
    assert web_libraries.vendored() == web_libraries.fetched()
