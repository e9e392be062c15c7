"""The options for threads and memory."""

from ...config import HTTP_THREADS
from ...option_readers import choice, integer
from ..option import Option
from ..values import load_mode

COMPUTE: tuple[Option, ...] = (
    Option(
        "threads",
        ("-t", "--threads"),
        "Threads for generation",
        integer(-1, 1024),
        default="what the container may use",
    ),
    Option(
        "threads_batch",
        ("-tb", "--threads-batch"),
        "Threads for prompts",
        integer(-1, 1024),
        default="same as --threads",
    ),
    Option(
        "threads_http",
        ("--threads-http",),
        "Threads for tokenizing and parsing requests",
        integer(-1, 1024),
        default=str(HTTP_THREADS),
    ),
    Option("mlock", ("--mlock",), "Lock the model in memory"),
    Option("mmap", ("--mmap",), "Map the model file into memory", off=("--no-mmap",)),
    Option(
        "direct_io",
        ("-dio", "--direct-io"),
        "Read the model file past the system's cache, if the system can do so",
        off=("-ndio", "--no-direct-io"),
        env=("LLAMA_ARG_DIO",),
    ),
    Option(
        "mmap",
        ("-lm", "--load-mode"),
        "--mmap and --mlock in one option: auto, none, mmap, mlock, mmap+mlock, or dio (direct I/O)",
        load_mode,
        value="MODE",
        env=("LLAMA_ARG_LOAD_MODE",),
        default="auto",
    ),
    Option(
        "numa",
        ("--numa",),
        "NUMA strategy",
        choice("distribute", "isolate", "numactl"),
        bare="distribute",
        value="STRATEGY",
    ),
    Option(
        "warmup",
        ("--warmup",),
        "Run a full micro-batch and every kind of computation that requests can need before the server is ready. "
        "Without it, the first requests are slow, and problems of the machine appear only then",
        off=("--no-warmup",),
    ),
)
