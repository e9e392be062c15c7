"""Options for fields that requests leave out: read, checked, shown, and used by each endpoint."""

import json

import pytest
from llamaserver import options
from llamaserver.errors import ConfigError

from tests.support.models import Models
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

READ = [
    (("--temp", "0.7"), {"temperature": 0.7}),
    (("--temperature", "0"), {"temperature": 0.0}),
    (("--seed", "-1"), {"seed": -1}),
    (("-s", "42"), {"seed": 42}),
    (("--top-k", "20"), {"top_k": 20}),
    (("--top-p", "0.9"), {"top_p": 0.9}),
    (("--min-p", "0"), {"min_p": 0.0}),
    (("--typical", "0.5"), {"typical_p": 0.5}),
    (("--top-nsigma", "-1"), {"top_n_sigma": -1.0}),
    (("--dynatemp-range", "0.5", "--dynatemp-exp", "2"), {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
    (("--xtc-probability", "0.5", "--xtc-threshold", "0.2"), {"xtc_probability": 0.5, "xtc_threshold": 0.2}),
    (("--repeat-last-n", "-1", "--repeat-penalty", "1.05"), {"repeat_last_n": -1, "repeat_penalty": 1.05}),
    (("--presence-penalty", "1.5", "--frequency-penalty", "-1"), {"presence_penalty": 1.5, "frequency_penalty": -1.0}),
    (("--dry-multiplier", "0.8", "--dry-base", "2"), {"dry_multiplier": 0.8, "dry_base": 2.0}),
    (("--dry-allowed-length", "3", "--dry-penalty-last-n", "9"), {"dry_allowed_length": 3, "dry_penalty_last_n": 9}),
    (("--dry-sequence-breaker", r"\n", "--dry-sequence-breaker", "x"), {"dry_sequence_breakers": ["\n", "x"]}),
    (("--dry-sequence-breaker", "none"), {"dry_sequence_breakers": []}),
    (("--mirostat", "2", "--mirostat-lr", "0.2"), {"mirostat": 2, "mirostat_eta": 0.2}),
    (("--mirostat-ent", "4"), {"mirostat_tau": 4.0}),
    (("--samplers", "top_k;typ_p;temperature"), {"samplers": ["top_k", "typ_p", "temperature"]}),
    (("--sampling-seq", "kpt"), {"samplers": "kpt"}),
    (("--ignore-eos",), {"ignore_eos": True}),
    (("-l", "15043-1", "-l", "7+2.5", "-l", "9-inf"), {"logit_bias": [[15043, -1.0], [7, 2.5], [9, False]]}),
    (("--grammar", 'root ::= "x"'), {"grammar": 'root ::= "x"'}),
    (("-j", '{"type": "object"}'), {"json_schema": {"type": "object"}}),
    (("-r", "User:", "-r", r"\n\n"), {"stop": ["User:", "\n\n"]}),
    (("--keep", "-1"), {"n_keep": -1}),
    (("--no-cache-prompt",), {"cache_prompt": False}),
]
BAD = [
    *(("--temp", "warm"), ("--temp", "nan"), ("--top-k", "1.5"), ("--mirostat", "3"), ("--repeat-penalty", "0")),
    *(
        ("-l", "x+1"),
        ("-l", "5"),
        ("-l", "5+inf"),
        ("-j", "{"),
        ("--json-schema-file", "/no/such/file"),
        ("--grammar", ""),
    ),
    *(("--grammar-file", "/no/such/file"), ("--seed", "x"), ("--xtc-probability", "2")),
]
USED = ("--seed", "42", "--temp", "0.25", "--top-k", "7", "--repeat-penalty", "1.25", "-l", "5-inf")


def parse(*argv, env=None):
    return options.parse(["-m", "m", *argv], env or {})


@pytest.mark.parametrize(("argv", "defaults"), READ, ids=[" ".join(argv) for argv, _ in READ])
def test_options_become_fields(argv, defaults):
    assert dict(parse(*argv).request_defaults) == defaults


@pytest.mark.parametrize(("flag", "text"), BAD, ids=[" ".join(pair) for pair in BAD])
def test_a_bad_default_is_refused_by_name(flag, text):
    with pytest.raises(ConfigError, match=flag):
        parse(flag, text)


def test_files_with_grammars(tmp_path):
    (tmp_path / "g").write_text('root ::= "x"')
    (tmp_path / "s").write_text('{"type": "object"}')
    assert dict(parse("--grammar-file", str(tmp_path / "g")).request_defaults) == {"grammar": 'root ::= "x"'}
    assert dict(parse("-jf", str(tmp_path / "s")).request_defaults) == {"json_schema": {"type": "object"}}


def test_variables_of_llama_server_and_the_command_line_wins():
    env = {"LLAMA_ARG_TEMPERATURE": "0", "LLAMA_ARG_TOP_K": "1", "LLAMA_ARG_MIN_P": "0.5", "LLAMA_ARG_IGNORE_EOS": "1"}
    defaults = {"temperature": 1.0, "top_k": 1, "min_p": 0.5, "ignore_eos": True}
    assert dict(parse("--temp", "1", env=env).request_defaults) == defaults


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models")).llama()


@pytest.fixture(scope="module")
def client(model):
    with ServerProcess("-m", str(model), "-c", "256", "-j", '{"type": "boolean"}', *USED) as server:
        yield Client(server.url)


def settings(client, path="/completion", **fields):
    return client.post(path, {"prompt": "a", "grammar": 'root ::= "xx"', **fields})["generation_settings"]


def test_requests_get_the_defaults_and_can_set_others(client):
    used = settings(client)
    wanted = {"seed": 42, "temperature": 0.25, "top_k": 7, "repeat_penalty": 1.25, "logit_bias": [[5, False]]}
    assert {name: used[name] for name in wanted} == wanted
    assert used["top_p"] == 0.95
    assert settings(client, temperature=0.5, seed=None)["temperature"] == 0.5
    assert settings(client, seed=7)["seed"] == 7


def test_the_page_of_properties_and_idle_slots_show_them(client):
    shown = client.get("/props")["default_generation_settings"]
    assert (shown["seed"], shown["temperature"], shown["repeat_penalty"]) == (42, 0.25, 1.25)
    assert [slot["top_k"] for slot in client.slots()] == [shown["top_k"]] == [7]


def test_a_default_schema_holds_unless_a_request_has_its_own(client):
    assert client.post("/completion", {"prompt": "a", "n_predict": 40})["content"].strip() in ("true", "false")
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 40}
    answer = client.post("/v1/chat/completions", chat)["choices"][0]["message"]["content"]
    assert json.loads(answer) in (True, False)
    own = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": "own"}}}
    answer = client.post("/v1/chat/completions", {**chat, "response_format": own})["choices"][0]["message"]["content"]
    assert json.loads(answer) == "own"


def test_openai_keeps_its_own_default_where_no_option_was_given(client, model):
    def penalty(server):
        server.post("/v1/chat/completions", messages=[{"role": "user", "content": "a"}], max_tokens=1)
        (slot,) = server.slots()
        return slot["repeat_penalty"]

    assert penalty(client) == 1.25
    with ServerProcess("-m", str(model), "-c", "256") as plain:
        assert penalty(Client(plain.url)) == 1.0


@pytest.mark.parametrize(
    "argv",
    [("-l", "999999+1"), ("--grammar", "root ::= ("), ("--grammar", "x", "-j", "{}")],
    ids=str,
)
def test_a_default_that_does_not_suit_the_model_ends_the_start(model, argv):
    with ServerProcess("-m", str(model), "-c", "64", *argv, wait=False) as server:
        assert server.process.wait(60) == 2
        assert "fields that requests leave out" in server.log
