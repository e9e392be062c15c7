"""The options for addresses, keys, endpoints and files that are served."""

from ...option_readers import integer
from ..option import Option
from ..values import given, secrets, words

SERVING: tuple[Option, ...] = (
    Option(
        "host",
        ("--host",),
        "Address to listen on, or the path of a UNIX socket, which must end in .sock",
        str,
        value="HOST",
    ),
    Option("port", ("--port",), "Port to listen on (0 = a free one)", integer(0, 65535)),
    Option("management_host", ("--management-host",), "Address of the management port", str, value="HOST"),
    Option(
        "management_port",
        ("--management-port",),
        "Port for /livez, /readyz, /metrics and /status (0 = off)",
        integer(0, 65535),
    ),
    Option(
        "path",
        ("--path",),
        "Folder of static files. They replace files of the built-in page",
        str,
        value="DIR",
        env=("LLAMA_ARG_STATIC_PATH",),
    ),
    Option(
        "api_keys",
        ("--api-key",),
        "API keys, comma-separated. Can be repeated. Other users of the machine can read a command line",
        secrets,
        many=True,
        value="KEY",
        env=("LLAMA_API_KEY", "LLAMA_ARG_API_KEY"),
        safer="--api-key-file or the variable LLAMA_API_KEY",
    ),
    Option(
        "api_key_file",
        ("--api-key-file",),
        "File with one API key per line and its settings, or a folder of such files. Read again when they change",
        given,
        value="FNAME",
    ),
    Option(
        "allowed_hosts",
        ("--allowed-hosts",),
        "Names that requests may have in Host beside localhost, comma-separated. Can be repeated. * allows any",
        words,
        many=True,
        value="NAME",
        default="any; without API keys on a loopback --host: names of this machine only",
    ),
    Option(
        "allowed_origins",
        ("--allowed-origins",),
        "Origins of web pages that may send requests, such as https://example.com, beside those of localhost, "
        "comma-separated. Can be repeated. * allows any",
        words,
        many=True,
        value="ORIGIN",
        default="any; without API keys on a loopback --host: localhost only",
    ),
    Option("ssl_key_file", ("--ssl-key-file",), "File with the private key for TLS (PEM)", str, value="FNAME"),
    Option(
        "ssl_cert_file",
        ("--ssl-cert-file",),
        "File with the certificate for TLS (PEM). It is read again when it changes",
        str,
        value="FNAME",
    ),
    Option("metrics", ("--metrics",), "Serve /metrics on the clients' port", env=("LLAMA_ARG_ENDPOINT_METRICS",)),
    Option(
        "slots_endpoint",
        ("--slots",),
        "Serve /slots",
        off=("--no-slots", "--slots-endpoint-disable"),
        env=("LLAMA_ARG_ENDPOINT_SLOTS",),
    ),
    Option(
        "request_system_prompt",
        ("--request-system-prompt",),
        "Let requests set the system prompt of all requests. With API keys, only admins may",
        off=("--no-request-system-prompt",),
    ),
    Option(
        "slot_save_path",
        ("--slot-save-path",),
        "Folder for saved slots. It is created if it is missing",
        str,
        value="PATH",
    ),
)
