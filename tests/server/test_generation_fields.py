"""The table of generation fields, and what is made from it: parsing, generation_settings and openapi.yaml."""

from dataclasses import replace

import pytest
import yaml
from llamaserver.api import openapi
from llamaserver.api.fields import Fields
from llamaserver.api.schema import Limits, parse_generation
from llamaserver.api.settings import generation_settings
from llamaserver.errors import InvalidRequest
from llamaserver.interfaces.params import GENERATION_PARAMETERS, SAMPLING_PARAMETERS, GenerationParams, SamplingParams

PARAMETERS = (*GENERATION_PARAMETERS, *SAMPLING_PARAMETERS)
BOUNDED = [
    (item, bound, step) for item in PARAMETERS for bound, step in ((item.low, -1), (item.high, 1)) if bound is not None
]


def parse(**body):
    return parse_generation(Fields(body), Limits(None, n_slots=2, n_lora=0))


def test_the_api_description_has_the_fields_of_the_table():
    text = openapi.FILE.read_text()
    assert openapi.with_generation_fields(text) == text, "run: python -m llamaserver.api.openapi"
    described = yaml.safe_load(text)["components"]["schemas"]["Generation"]["properties"]
    assert {item.names[0] for item in PARAMETERS} <= set(described)


def test_an_empty_request_has_the_defaults_of_the_table():
    params = parse()
    assert replace(params, sampling=replace(params.sampling, seed=0)) == GenerationParams(sampling=SamplingParams())


@pytest.mark.parametrize("item", PARAMETERS, ids=lambda item: item.attribute)
def test_null_is_the_default(item):
    params = parse(seed=0) if item.attribute == "seed" else parse(seed=0, **dict.fromkeys(item.names))
    assert params == GenerationParams()


@pytest.mark.parametrize(("item", "bound", "step"), BOUNDED)
def test_bounds_are_checked_under_every_name(item, bound, step):
    for name in item.names:
        with pytest.raises(InvalidRequest) as refusal:
            parse(**{name: bound + step})
        assert refusal.value.field == name


def test_settings_report_all_fields_but_those_of_one_request():
    reported = set(generation_settings(GenerationParams(), n_ctx=8, model="m", stream=False))
    names = {item.names[0] for item in PARAMETERS} - {"penalty_prompt"}
    assert names - reported == {
        "cache_salt",
        "id_slot",
        "lora",
        "n_indent",
        "t_max_predict_ms",
        "return_progress",
        "return_tokens",
        "timings_per_token",
        "post_sampling_probs",
    }
    assert reported - names == {"n_ctx", "model", "stream", "penalty_prompt_tokens", "use_penalty_prompt_tokens"}
