"""The names of quantizations, against the library's own constants."""

import llama_cpp
import pytest
from llamaserver.api.quantization import quantization

PREFIXES = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
CONSTANTS = {
    name.removeprefix(prefix): getattr(llama_cpp, name)
    for name in dir(llama_cpp)
    for prefix in PREFIXES
    if name.startswith(prefix)
}


@pytest.mark.parametrize(("name", "number"), CONSTANTS.items(), ids=CONSTANTS)
def test_every_number_of_the_library_has_its_name(name, number):
    assert quantization({"general.file_type": str(number)}) == name


@pytest.mark.parametrize("text", ["", "x", "-1", "999", str(llama_cpp.LLAMA_FTYPE_GUESSED)])
def test_an_unknown_number_has_no_name(text):
    assert quantization({"general.file_type": text}) == ""


def test_a_model_that_does_not_tell():
    assert quantization({}) == ""
