"""The options for limits of time, memory and number, and for the end of the server."""

from ...option_readers import integer, number
from ..option import Option

LIMITS: tuple[Option, ...] = (
    Option(
        "timeout",
        ("-to", "--timeout"),
        "Timeout in seconds for reading a request and for writing to a client (0 = none)",
        integer(0),
    ),
    Option(
        "sse_ping_interval",
        ("--sse-ping-interval",),
        "Seconds without an event after which a stream gets a comment line (-1 = never). A request can set another",
        integer(-1),
    ),
    Option(
        "header_timeout",
        ("--header-timeout",),
        "Seconds for a TLS handshake, and for a client to send the whole head of a request (0 = no limit)",
        number(0.0, 86400.0),
    ),
    Option(
        "keep_alive_timeout",
        ("--keep-alive-timeout",),
        "Seconds for which an idle connection stays open after an answer",
        number(1.0, 86400.0),
    ),
    Option(
        "max_connections",
        ("--max-connections",),
        "Most open connections of clients. At the limit, the one that was idle longest is closed",
        integer(1),
        default="as open files allow, at most 4096",
    ),
    Option(
        "max_connections_per_address",
        ("--max-connections-per-address",),
        "Most open connections of one client address (0 = no limit). Behind a proxy all clients have its address",
        integer(0),
    ),
    Option(
        "decode_timeout",
        ("--decode-timeout",),
        "Seconds after which a decode counts as hanging: then the server is unready, and after twice the time not "
        "alive (0 = never). Automatic is 20 times the usual time of such a decode, at least 60",
        number(0.0),
    ),
    Option(
        "max_body",
        ("--max-body",),
        "Largest request body in bytes (0 = 8 MiB, or 64 MiB with --mmproj)",
        integer(0),
    ),
    Option(
        "max_body_bytes_in_flight",
        ("--max-body-bytes-in-flight",),
        "Most bytes in the bodies of all requests that are read or answered at the same time. One client can have "
        "half of them while others have some. Requests beyond get 503 (0 = 128 MiB, or 4 times --max-body if that "
        "is more)",
        integer(0),
    ),
    Option(
        "response_store_bytes",
        ("--response-store-bytes",),
        "Most bytes of memory for the last responses of /v1/responses, which clients can refer to by their ids. "
        "One API key can have half of them (0 = keep none)",
        integer(0),
    ),
    Option("max_queue", ("--max-queue",), "Most requests that can wait for a slot (0 = no limit)", integer(0)),
    Option(
        "slot_save_max_bytes",
        ("--slot-save-max-bytes",),
        "Most bytes of all saved slots together (0 = no limit)",
        integer(0),
    ),
    Option("slot_save_max_files", ("--slot-save-max-files",), "Most files of saved slots (0 = no limit)", integer(0)),
    Option(
        "drain_delay",
        ("--drain-delay",),
        "Seconds after SIGTERM in which new connections are still accepted, because load balancers need time to "
        "stop sending them. The delay ends early after 3 seconds without a request",
        number(0.0, 3600.0),
    ),
    Option(
        "drain_timeout",
        ("--drain-timeout",),
        "Seconds for running requests to end after --drain-delay",
        number(0.0, 86400.0),
    ),
    Option(
        "save_timeout",
        ("--save-timeout",),
        "Extra seconds after the drain for saving conversations (0 = wait while progress is made)",
        number(0.0, 86400.0),
    ),
    Option(
        "stay_on_load_error",
        ("--stay-on-load-error",),
        "Keep running and answer /health with the error if the model cannot be loaded",
    ),
)
