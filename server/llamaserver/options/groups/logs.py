"""The options for the log."""

from ...option_readers import choice
from ..option import Option
from ..values import verbosity

LOGS: tuple[Option, ...] = (
    Option("log_disable", ("--log-disable",), "Log to stdout only, not to --log-file"),
    Option(
        "log_format", ("--log-format",), "Format of log lines: json or text", choice("json", "text"), value="FORMAT"
    ),
    Option("log_file", ("--log-file",), "Log file", str, value="FNAME", env=("LLAMA_ARG_LOG_FILE", "LLAMA_LOG_FILE")),
    Option("verbose", ("-v", "--log-verbose", "--verbose"), "Log more"),
    Option(
        "verbose",
        ("-lv", "--verbosity", "--log-verbosity"),
        "Verbosity of the log. 4 or more is the same as --verbose",
        verbosity,
        env=("LLAMA_ARG_LOG_VERBOSITY",),
        default="3",
    ),
    Option(
        "termination_log",
        ("--termination-log",),
        "File for the reason of a failure, as JSON. The default file is used only if it exists",
        str,
        value="FNAME",
    ),
)
