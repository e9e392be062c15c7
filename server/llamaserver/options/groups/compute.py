"""The options for threads, GPUs and memory."""

from ...config import HTTP_THREADS
from ...option_readers import choice, integer
from ..option import Option
from ..values import layers, load_mode, proportions

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
    Option(
        "n_gpu_layers",
        ("-ngl", "--gpu-layers", "--n-gpu-layers"),
        "Layers to offload to GPUs: all, or a number",
        layers,
        default="all",
    ),
    Option(
        "main_gpu",
        ("-mg", "--main-gpu"),
        "GPU for the whole model (--split-mode none) or for small tensors",
        integer(0, 1023),
        value="i",
    ),
    Option(
        "split_mode",
        ("-sm", "--split-mode"),
        "How to split the model over several GPUs",
        choice("none", "layer", "row"),
        value="MODE",
    ),
    Option(
        "tensor_split",
        ("-ts", "--tensor-split"),
        "Share of the model on each GPU, comma-separated",
        proportions,
        value="SPLIT",
    ),
    Option("mlock", ("--mlock",), "Lock the model in memory"),
    Option("mmap", ("--mmap",), "Map the model file into memory", off=("--no-mmap",)),
    Option(
        "mmap",
        ("-lm", "--load-mode"),
        "--mmap and --mlock in one option: auto, none, mmap, mlock or mmap+mlock",
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
    Option("require_offload", ("--require-offload",), "Stay unready if no layer is on a GPU"),
)
