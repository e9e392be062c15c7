"""The command line: each option in each of its spellings, the environment, and what is refused."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from llamaserver import options
from llamaserver.config import Config
from llamaserver.errors import ConfigError

MODEL = ("-m", "model.gguf")
DOCS = Path(__file__).parents[2] / "docs" / "reference" / "options.md"

# (spellings, value, Config field, its value): the options of the April 2024 document that take a value
VALUED = [
    (("--threads", "-t"), "3", "threads", 3),
    (("--threads-batch", "-tb"), "5", "threads_batch", 5),
    (("--threads-http",), "6", "threads_http", 6),
    (("--model", "-m"), "models/7B/ggml-model.gguf", "model", "models/7B/ggml-model.gguf"),
    (("--model-url", "-mu"), "http://there/m.gguf", "model_url", "http://there/m.gguf"),
    (("--hf-repo", "-hfr"), "who/what", "hf_repo", "who/what"),
    (("--alias", "-a"), "gpt-4", "alias", "gpt-4"),
    (("--ctx-size", "-c"), "2048", "ctx_size", 2048),
    (("--n-gpu-layers", "-ngl"), "99", "n_gpu_layers", 99),
    (("--main-gpu", "-mg"), "1", "main_gpu", 1),
    (("--tensor-split", "-ts"), "3,2", "tensor_split", (3.0, 2.0)),
    (("--batch-size", "-b"), "1024", "batch_size", 1024),
    (("--ubatch-size", "-ub"), "128", "ubatch_size", 128),
    (("--numa",), "distribute", "numa", "distribute"),
    (("--numa",), "isolate", "numa", "isolate"),
    (("--numa",), "numactl", "numa", "numactl"),
    (("--lora",), "adapter.gguf", "lora", (("adapter.gguf", 1.0),)),
    (("--timeout", "-to"), "30", "timeout", 30),
    (("--host",), "0.0.0.0", "host", "0.0.0.0"),
    (("--port",), "9090", "port", 9090),
    (("--path",), "FOLDER", "path", "FOLDER"),
    (("--api-key",), "secret", "api_keys", ("secret",)),
    (("--api-key-file",), "FILE", "api_key_file", "FILE"),
    (("--parallel", "-np"), "4", "parallel", 4),
    (("--system-prompt-file", "-spf"), "system.json", "system_prompt_file", "system.json"),
    (("--mmproj",), "mmproj.gguf", "mmproj", "mmproj.gguf"),
    (("--grp-attn-n",), "4", "grp_attn_n", 4),
    (("--grp-attn-w",), "256", "grp_attn_w", 256),
    (("--n-predict", "-n"), "100", "n_predict", 100),
    (("--n-predict", "-n"), "-1", "n_predict", -1),
    (("--slot-save-path",), "FOLDER", "slot_save_path", "FOLDER"),
    (("--chat-template",), "chatml", "chat_template", "chatml"),
    (("--log-format",), "text", "log_format", "text"),
    (("--log-format",), "json", "log_format", "json"),
]
SWITCHES = [
    (("--mlock",), "mlock", True),
    (("--no-mmap",), "mmap", False),
    (("--numa",), "numa", "distribute"),
    (("--embedding",), "embedding", True),
    (("--cont-batching", "-cb"), "cont_batching", True),
    (("--slots-endpoint-disable",), "slots_endpoint", False),
    (("--metrics",), "metrics", True),
    (("--log-disable",), "log_disable", True),
]
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
# Today's spellings and arguments.
TODAY = [
    (("--gpu-layers", "all"), "n_gpu_layers", -1),
    (("-ngl", "auto"), "n_gpu_layers", -1),
    (("-ngl", "0"), "n_gpu_layers", 0),
    (("--predict", "7"), "n_predict", 7),
    (("-hf", "who/what:Q8_0"), "hf_repo", "who/what:Q8_0"),
    (("-hft", "hf_x"), "hf_token", "hf_x"),
    (("--no-slots",), "slots_endpoint", False),
    (("--slots",), "slots_endpoint", True),
    (("--cache-ram", "0"), "cache_ram", 0),
    (("-cram", "-1"), "cache_ram", -1),
    (("--context-shift",), "context_shift", True),
    (("--no-context-shift",), "context_shift", False),
    (("-fa",), "flash_attn", "on"),
    (("-fa", "off"), "flash_attn", "off"),
    (("--flash-attn", "auto"), "flash_attn", "auto"),
    (("--flash-attn", "1"), "flash_attn", "on"),
    (("-nocb",), "cont_batching", False),
    (("--no-cont-batching",), "cont_batching", False),
    (("-kvu",), "kv_unified", True),
    (("--no-kv-unified",), "kv_unified", False),
    (("--embeddings",), "embedding", True),
    (("--pooling", "mean"), "pooling", "mean"),
    (("-ctk", "q8_0"), "cache_type_k", "q8_0"),
    (("--cache-type-v", "q4_0"), "cache_type_v", "q4_0"),
    (("-sm", "row"), "split_mode", "row"),
    (("-ts", "3/1"), "tensor_split", (3.0, 1.0)),
    (("-mm", "p.gguf"), "mmproj", "p.gguf"),
    (("-lm", "none"), "mmap", False),
    (("--load-mode", "mmap+mlock"), "mlock", True),
    (("--load-mode", "dio"), "direct_io", True),
    (("-dev", "CUDA0,CUDA1"), "device", ("CUDA0", "CUDA1")),
    (("-dev", "none"), "device", ("none",)),
    (("-ot", "exps=CPU,a=CUDA0"), "override_tensor", (("exps", "CPU"), ("a", "CUDA0"))),
    (("-ncffn", "1"), "override_tensor", ((r"blk\.0\.ffn_(up|down|gate)\.", "CPU"),)),
    (("-cmoe", "-ot", "x=CUDA0"), "override_tensor", (("x", "CUDA0"), (EXPERTS, "CPU"))),
    (("--n-cpu-moe", "0"), "override_tensor", ()),
    (("-nkvo",), "kv_offload", False),
    (("--kv-offload",), "kv_offload", True),
    (("-np", "-1"), "parallel", 4),
    (("-np", "-1"), "kv_unified", True),
    (("-np", "-1", "--no-kv-unified"), "kv_unified", False),
    (("--override-kv", "a=int:-7,b=bool:true"), "override_kv", (("a", -7), ("b", True))),
    (("--override-kv", "a=float:.5", "--override-kv", '"b=str:x,y"'), "override_kv", (("a", 0.5), ("b", "x,y"))),
    (("--no-warmup",), "warmup", False),
    (("-gan", "2"), "grp_attn_n", 2),
    (("-gaw", "64"), "grp_attn_w", 64),
    (("--rope-scaling", "yarn"), "rope_scaling", "yarn"),
    (("--rope-scale", "4"), "rope_freq_scale", 0.25),
    (("--rope-freq-scale", "0.5"), "rope_freq_scale", 0.5),
    (("--rope-freq-base", "20000"), "rope_freq_base", 20000.0),
    (("--yarn-orig-ctx", "2048"), "yarn_orig_ctx", 2048),
    (("--yarn-ext-factor", "-1.0"), "yarn_ext_factor", -1.0),
    (("--yarn-attn-factor", "1.5"), "yarn_attn_factor", 1.5),
    (("--yarn-beta-slow", "1"), "yarn_beta_slow", 1.0),
    (("--yarn-beta-fast", "32"), "yarn_beta_fast", 32.0),
    (("-t", "-1"), "threads", 0),
    (("--api-key", "a,b"), "api_keys", ("a", "b")),
    (("--lora", "a.gguf,b.gguf"), "lora", (("a.gguf", 1.0), ("b.gguf", 1.0))),
    (("--lora-scaled", "a.gguf:0.5"), "lora", (("a.gguf", 0.5),)),
    (("--log-file", "other.log"), "log_file", "other.log"),
    (("-v",), "verbose", True),
    (("-lv", "5"), "verbose", True),
    (("-lv", "3"), "verbose", False),
    (("--host", "/run/server.sock"), "host", "/run/server.sock"),
]


@pytest.fixture
def places(tmp_path):
    """What stands for FOLDER and FILE."""
    file = tmp_path / "keys"
    file.write_text("key\n")
    return {"FOLDER": str(tmp_path), "FILE": str(file)}


def parse(*argv, env=None):
    """A Config with a model."""
    model = () if {"-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo"} & set(argv) else MODEL
    return options.parse([*model, *argv], env or {})


def forms():
    """Every option with a value: `--flag value` of each spelling, `--flag=value` of the long ones."""
    for flags, text, field, value in VALUED:
        for flag in flags:
            yield pytest.param((flag, text), field, value, id=f"{flag} {text}")
            if flag.startswith("--"):
                yield pytest.param((f"{flag}={text}",), field, value, id=f"{flag}={text}")


@pytest.mark.parametrize(("argv", "field", "value"), list(forms()))
def test_option_of_the_document(argv, field, value, places):
    given = [part.replace("FOLDER", places["FOLDER"]).replace("FILE", places["FILE"]) for part in argv]
    config = options.parse([*given, *(() if field in {"model", "model_url", "hf_repo"} else MODEL)], {})
    assert getattr(config, field) == places.get(str(value), value)
    assert getattr(Config(), field) != getattr(config, field) or value in (Config().log_format, Config().n_predict)


@pytest.mark.parametrize(("flags", "field", "value"), SWITCHES, ids=str)
def test_switch_of_the_document(flags, field, value):
    assert getattr(parse(), field) != value
    for flag in flags:
        assert getattr(parse(flag), field) == value


def test_hf_file_goes_with_hf_repo():
    for repo, file in (("-hfr", "-hff"), ("--hf-repo", "--hf-file")):
        config = parse(repo, "who/what", file, "m.gguf")
        assert (config.hf_repo, config.hf_file) == ("who/what", "m.gguf")


def test_tls_files_of_the_document():
    config = parse("--ssl-key-file", "key.pem", "--ssl-cert-file", "cert.pem")
    assert (config.ssl_key_file, config.ssl_cert_file) == ("key.pem", "cert.pem")


def test_the_defaults_are_the_documents():
    config = parse()
    expected = {
        "ctx_size": 512, "batch_size": 2048, "ubatch_size": 512, "parallel": 1, "cont_batching": False,
        "timeout": 600, "host": "127.0.0.1", "port": 8080, "grp_attn_n": 1, "grp_attn_w": 512, "n_predict": -1,
        "embedding": False, "metrics": False, "slots_endpoint": True, "log_disable": False, "log_format": "json",
        "path": "", "slot_save_path": "", "api_keys": (), "lora": (), "mlock": False, "mmap": True, "main_gpu": 0,
        "drain_delay": 0.0,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(("argv", "field", "value"), TODAY, ids=str)
def test_todays_argument(argv, field, value):
    assert getattr(parse(*argv), field) == value


def test_a_command_line_of_llama_server():
    config = parse(
        "-m", "/models/m.gguf", "-c", "8192", "-np", "4", "-cb", "-fa", "on", "-ngl", "all", "--jinja", "--fit", "off",
        "--host", "0.0.0.0", "--port", "8080", "--metrics", "--no-webui", "--slot-prompt-similarity", "0.5",
        "--cache-reuse", "256", "--reasoning-format", "none", "--no-perf", "--poll", "50", "--prio", "2",
        "-lv", "1", "--log-timestamps",
    )  # fmt: skip
    assert config.ctx_size == 8192
    assert config.flash_attn == "on"
    assert [note.split()[0] for note in config.notes] == ["--jinja", "--no-perf"]
    assert [warning.split()[0] for warning in config.warnings] == [
        "--fit", "--no-webui", "--slot-prompt-similarity", "--cache-reuse", "--poll", "--prio", "--log-timestamps",
    ]  # fmt: skip
    assert config.reasoning_format == "none"


def test_repeated_options_add_up():
    config = parse("--api-key", "a", "--api-key", "b", "--lora", "x", "--lora-scaled", "y:2", "--lora", "z")
    assert config.api_keys == ("a", "b")
    assert config.lora == (("x", 1.0), ("z", 1.0), ("y", 2.0))


@pytest.mark.parametrize(("flag", "safer"), [("--api-key", "--api-key-file"), ("--hf-token", "HF_TOKEN")])
def test_a_secret_on_the_command_line_is_warned_of_without_the_secret(flag, safer):
    (warning,) = parse(flag, "s3cret").warnings
    assert flag in warning
    assert safer in warning
    assert "s3cret" not in warning


def test_secrets_from_elsewhere_are_fine(tmp_path):
    (tmp_path / "keys").write_text("s3cret")
    environ = {"LLAMA_API_KEY": "s3cret", "HF_TOKEN": "s3cret", "LLAMA_ARG_MODEL": "m"}
    assert options.parse(["--api-key-file", str(tmp_path / "keys")], environ).warnings == ()


# ---- the environment


def sample(option):
    """A value of each kind of option that is not the default, as text and as it lands in Config."""
    if option.read is None:
        default = next(f.default for f in fields(Config) if f.name == option.field)
        return ("off", False) if default else ("on", True)
    if option.field == "allowed_origins":
        return "null", ["null"]
    if option.field == "cache_isolation":
        return "shared", "shared"
    if option.field == "api_prefix":
        return "/llm", "/llm"
    for text in (
        *("4096", "2", "0.5", "7", "q8_0", "on", "linear", "mean", "row", "isolate", "text", "x:2", "mmap+mlock"),
        *("shutdown", "shared", "none", '{"a": 1}', "a=int:1", "x=CPU", "x"),
    ):
        try:
            value = option.read(text)
        except ConfigError:
            continue
        return text, value
    raise AssertionError(f"no sample value suits {option.flags}")


OF_CONFIG = [option for option in options.OPTIONS if not option.request]  # test_request_defaults.py has the others


@pytest.mark.parametrize("option", OF_CONFIG, ids=lambda option: option.flags[-1])
def test_every_option_comes_from_the_environment_and_argv_wins(option, tmp_path):
    text, value = sample(option)
    if option.field in {"path", "slot_save_path", "api_key_file"}:
        text = value = str(tmp_path / "file" if option.field == "api_key_file" else tmp_path)
        (tmp_path / "file").write_text("key")
    value = tuple(value) if isinstance(value, list) else value
    support = {
        "hf_file": {"hf_repo": "r"},
        "grp_attn_n": {"grp_attn_w": "8192"},
        "ssl_key_file": {"ssl_cert_file": "c"},
        "ssl_cert_file": {"ssl_key_file": "k"},
        "models_use": {"models_owner": "n/o"},
    }
    extra = {f"LLAMA_ARG_{name.upper()}": with_ for name, with_ in support.get(option.field, {}).items()}
    sources = {"model", "model_url", "hf_repo"}
    base = {} if option.field in sources else {"LLAMA_ARG_MODEL": "m"}
    for variable in option.variables:
        config = options.parse([], {**base, **extra, variable: text})
        if isinstance(value, dict):
            assert {name: getattr(config, name) for name in value} == value
            continue
        assert getattr(config, option.field) == value, variable
    assert any(variable.startswith("LLAMA_ARG_") for variable in option.variables)
    if option.read is None and option.off:
        config = options.parse([option.flags[-1]], {**base, **extra, option.key: "off"})
        assert getattr(config, option.field) is True
    elif option.read is not None and not option.many:
        bad = "definitely not \0 valid"
        config = options.parse([f"{option.flags[-1]}={text}"], {**base, **extra, option.key: bad})
        assert bad not in [getattr(config, f.name) for f in fields(Config)]


def test_the_names_of_the_variables_are_llama_servers():
    by_flag = {flag: option.variables for option in options.OPTIONS for flag in option.flags}
    expected = {
        "-m": "LLAMA_ARG_MODEL", "-c": "LLAMA_ARG_CTX_SIZE", "-np": "LLAMA_ARG_N_PARALLEL", "-b": "LLAMA_ARG_BATCH",
        "-ub": "LLAMA_ARG_UBATCH", "-ngl": "LLAMA_ARG_N_GPU_LAYERS", "-t": "LLAMA_ARG_THREADS",
        "--host": "LLAMA_ARG_HOST",
        "--port": "LLAMA_ARG_PORT", "--path": "LLAMA_ARG_STATIC_PATH", "--api-key": "LLAMA_API_KEY",
        "--metrics": "LLAMA_ARG_ENDPOINT_METRICS", "--slots": "LLAMA_ARG_ENDPOINT_SLOTS", "-hft": "HF_TOKEN",
        "--embedding": "LLAMA_ARG_EMBEDDINGS", "--rope-scaling": "LLAMA_ARG_ROPE_SCALING_TYPE", "-a": "LLAMA_ARG_ALIAS",
        "--log-file": "LLAMA_ARG_LOG_FILE", "-lv": "LLAMA_ARG_LOG_VERBOSITY", "-fa": "LLAMA_ARG_FLASH_ATTN",
        "-hf": "LLAMA_ARG_HF_REPO", "-hff": "LLAMA_ARG_HF_FILE", "-mu": "LLAMA_ARG_MODEL_URL",
        "-to": "LLAMA_ARG_TIMEOUT",
        "-cram": "LLAMA_ARG_CACHE_RAM", "-kvu": "LLAMA_ARG_KV_UNIFIED", "-lm": "LLAMA_ARG_LOAD_MODE",
    }  # fmt: skip
    assert {flag: by_flag[flag][0] for flag in expected} == expected


def test_a_switch_is_negated_by_its_no_variable():
    assert parse(env={"LLAMA_ARG_NO_MMAP": "1"}).mmap is False
    assert parse(env={"LLAMA_ARG_NO_MMAP": "0"}).mmap is True
    assert parse("--mmap", env={"LLAMA_ARG_NO_MMAP": "1"}).mmap is True


def test_lists_in_the_environment():
    assert parse(env={"LLAMA_API_KEY": "a,b"}).api_keys == ("a", "b")
    assert parse("--api-key", "c", env={"LLAMA_API_KEY": "a,b"}).api_keys == ("c",)


def test_the_cache_folder_of_llama_server_takes_downloads():
    assert parse(env={"LLAMA_CACHE": "/cache"}).models_dir == Path("/cache")
    assert parse("--models-dir", "/mine", env={"LLAMA_CACHE": "/cache"}).models_dir == Path("/mine")


# ---- refusals: each names the option


BAD = [
    ("--ctx-size", "many"), ("--ctx-size", "-5"), ("--ctx-size", "1e3"), ("--parallel", "0"), ("--parallel", "257"),
    ("--batch-size", "0"), ("--ubatch-size", "0"), ("--n-predict", "-2"), ("--threads", "-2"), ("--threads", "2000"),
    ("--port", "65536"), ("--port", "http"), ("--timeout", "-1"), ("--max-body", "10"), ("--grp-attn-n", "0"),
    ("--n-gpu-layers", "some"), ("--tensor-split", "1,x"), ("--tensor-split", "1,-1"), ("--split-mode", "column"),
    ("--numa", "everywhere"), ("--flash-attn", "perhaps"), ("--cache-type-k", "q9"), ("--rope-scaling", "cubic"),
    ("--rope-freq-base", "nan"), ("--rope-freq-base", "inf"), ("--rope-scale", "0"), ("--pooling", "max"),
    ("--log-format", "xml"), ("--lora-scaled", "adapter.gguf"), ("--lora-scaled", "a:b"), ("--drain-delay", "-1"),
    ("--drain-timeout", "soon"), ("--load-mode", "fast"), ("--management-port", "-1"), ("--log-verbosity", "much"),
    ("--path", "/no/such/folder"), ("--slot-save-path", "/no/such/folder"), ("--api-key-file", "/no/such/file"),
    ("--chat-template-kwargs", "[1]"), ("--chat-template-kwargs", '{"enable_thinking": "yes"}'),
    ("--reasoning", "maybe"), ("--reasoning-format", "deep"), ("--reasoning-budget", "-2"),
    ("--split-mode", "tensor"), ("--device", ""), ("--device", "none,CUDA0"), ("--parallel", "-2"),
    ("--override-tensor", "exps"), ("--override-tensor", "=CPU"), ("--n-cpu-moe", "-1"), ("--n-cpu-moe", "all"),
    ("--override-kv", "a"), ("--override-kv", "a=int"), ("--override-kv", "a=list:1"), ("--override-kv", "a=int:x"),
    ("--override-kv", "a=bool:yes"), ("--override-kv", "a=str:" + 128 * "x"), ("--override-kv", "=int:1"),
    ("--api-key", ""), ("--api-key", " "), ("--api-key", "a,,b"), ("--api-key-file", ""),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "text"), BAD, ids=[f"{flag} {text}" for flag, text in BAD])
def test_bad_value_is_refused_by_name(flag, text):
    with pytest.raises(ConfigError, match=flag):
        parse(f"{flag}={text}")


def test_bad_variable_is_refused_by_name():
    with pytest.raises(ConfigError, match="LLAMA_ARG_CTX_SIZE: must be an integer"):
        parse(env={"LLAMA_ARG_CTX_SIZE": "x"})
    with pytest.raises(ConfigError, match="LLAMA_ARG_MLOCK: must be true or false"):
        parse(env={"LLAMA_ARG_MLOCK": "maybe"})
    for variable in ("LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE"):
        with pytest.raises(ConfigError, match=f"{variable}: "):
            parse(env={variable: ""})


CONFLICTS = [
    ((), "a model is needed"),
    (("-m", "m", "--ssl-key-file", "k"), "--ssl-cert-file"),
    (("-m", "m", "--ssl-cert-file", "c"), "--ssl-key-file"),
    (("-m", "m", "--hf-file", "f"), "--hf-repo"),
    (("--model-url", "u", "--hf-repo", "r"), "--model-url and --hf-repo"),
    (("-m", "m", "--grp-attn-n", "4", "--grp-attn-w", "130"), "--grp-attn-w must be a multiple"),
    (("-m", "m", "-c", "16", "-np", "4"), "--ctx-size leaves no room"),
    (("-m", "m", "--models-use", "k"), "--models-use needs --models-owner"),
    (("-m", "m", "--port", "9000", "--management-port", "9000"), "--management-port must not be --port"),
    (("-m", "m", "--chat-template", "chatml", "--chat-template-file", "f"), "--chat-template and --chat-template-file"),
]


@pytest.mark.parametrize(("argv", "message"), CONFLICTS, ids=[" ".join(argv) or "nothing" for argv, _ in CONFLICTS])
def test_conflicting_options_are_refused(argv, message):
    with pytest.raises(ConfigError, match=message):
        options.parse(list(argv), {})


def test_lora_base_is_refused_with_the_reason():
    for form in (("--lora-base", "base.gguf"), ("--lora-base=base.gguf",)):
        with pytest.raises(ConfigError, match=r"--lora-base is not supported: .*cannot use another base.*Merge"):
            parse(*form)


def command(*argv):
    """The command as a user runs it, without a LLAMA_ARG_* environment."""
    return subprocess.run(
        [sys.executable, "-m", "llamaserver", *argv], capture_output=True, text=True, timeout=60, env={}, check=False
    )


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (("-m", "m", "--ctx-size", "x"), "--ctx-size"),
        (("-m", "m", "--no-such-option"), "--no-such-option"),
        (("-m", "m", "--port"), "--port"),
        (("-m", "m", "--mlock=7"), "--mlock"),
        (("-m", "m", "--ctx"), "--ctx"),  # no abbreviations: a later option could change their meaning
        (("--lora-base", "b"), "--lora-base"),
        ((), "--model-url"),
    ],
)
def test_the_command_exits_with_2_and_names_the_option(argv, names):
    done = command(*argv)
    assert done.returncode == 2
    assert names in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_lists_every_spelling():
    done = command("-h")
    assert done.returncode == 0
    assert done.stdout == command("--help").stdout
    words = set(done.stdout.replace(",", " ").replace("[", " ").replace("]", " ").split())
    missing = [flag for option in options.OPTIONS for flag in (*option.flags, *option.off) if flag not in words]
    assert missing == []


def test_version():
    done = command("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "llamaserver")


def test_every_field_has_an_option():
    assert {f.name for f in fields(Config)} == {option.field for option in options.OPTIONS} | {"notes", "warnings"}


def test_no_two_options_share_a_spelling_or_a_variable():
    flags = [flag for option in options.OPTIONS for flag in (*option.flags, *option.off)]
    variables = [variable for option in options.OPTIONS for variable in option.variables]
    assert len(flags) == len(set(flags))
    assert len(variables) == len(set(variables))


def test_the_page_of_options_is_current():
    assert DOCS.read_text() == options.markdown(), "run: python -m llamaserver.options > docs/reference/options.md"


def test_the_limits_of_hangs_and_connections():
    plain = options.parse(MODEL, {})
    assert (plain.decode_timeout, plain.header_timeout, plain.keep_alive_timeout) == (None, 10.0, 75.0)
    assert (plain.max_connections, plain.max_connections_per_address) == (0, 0)
    given = ["--decode-timeout", "0", "--header-timeout", "0", "--keep-alive-timeout", "5", "--max-connections", "9"]
    limits = options.parse([*MODEL, *given], {"LLAMA_ARG_MAX_CONNECTIONS_PER_ADDRESS": "4"})
    assert (limits.decode_timeout, limits.header_timeout, limits.keep_alive_timeout) == (0.0, 0.0, 5.0)
    assert (limits.max_connections, limits.max_connections_per_address) == (9, 4)
