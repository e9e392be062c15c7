"""The options for the context, its slots and the model's positions."""

from ...config import MAX_NORM
from ...option_readers import choice, integer, number
from ..option import Option
from ..values import flash_attention, reranking, rope_scale, slots

CONTEXT: tuple[Option, ...] = (
    Option(
        "ctx_size",
        ("-c", "--ctx-size"),
        "Context size in tokens, divided among the slots (0 = the size the model was trained with)",
        integer(0),
    ),
    Option(
        "parallel",
        ("-np", "--parallel"),
        "Number of slots: requests that can run at the same time (-1 = four that share the KV cache)",
        slots,
        env=("LLAMA_ARG_N_PARALLEL",),
    ),
    Option(
        "cont_batching",
        ("-cb", "--cont-batching"),
        "Start new requests while others generate (continuous batching)",
        off=("-nocb", "--no-cont-batching"),
    ),
    Option("batch_size", ("-b", "--batch-size"), "Logical batch size in tokens", integer(1), env=("LLAMA_ARG_BATCH",)),
    Option(
        "ubatch_size",
        ("-ub", "--ubatch-size"),
        "Physical batch size in tokens",
        integer(1),
        env=("LLAMA_ARG_UBATCH",),
    ),
    Option(
        "prompt_budget",
        ("--prompt-budget",),
        "Most prompt tokens in one step while other requests generate",
        integer(2),
    ),
    Option(
        "n_predict",
        ("-n", "--predict", "--n-predict"),
        "Most tokens to generate for one request (-1 = no limit)",
        integer(-1),
    ),
    Option(
        "unlimited_answers",
        ("--unlimited-answers",),
        "Let an answer outgrow its slot, by context shifts. If off, an answer ends when its slot is full",
        off=("--no-unlimited-answers",),
    ),
    Option(
        "context_shift",
        ("--context-shift",),
        "In /completion, remove old tokens when a slot is full, and go on generating",
        off=("--no-context-shift",),
    ),
    Option("grp_attn_n", ("-gan", "--grp-attn-n"), "Self-extend: group attention factor", integer(1)),
    Option("grp_attn_w", ("-gaw", "--grp-attn-w"), "Self-extend: group attention width", integer(1)),
    Option(
        "flash_attn",
        ("-fa", "--flash-attn"),
        "Flash attention: auto, on or off",
        flash_attention,
        bare="on",
        value="auto|on|off",
    ),
    Option(
        "rope_scaling",
        ("--rope-scaling",),
        "RoPE scaling method",
        choice("none", "linear", "yarn"),
        value="KIND",
        default="the model's",
        env=("LLAMA_ARG_ROPE_SCALING_TYPE",),
    ),
    Option("rope_freq_base", ("--rope-freq-base",), "RoPE base frequency (0 = the model's)", number(0.0)),
    Option("rope_freq_scale", ("--rope-freq-scale",), "RoPE frequency scale (0 = the model's)", number(0.0)),
    Option(
        "rope_freq_scale",
        ("--rope-scale",),
        "RoPE context factor, the inverse of --rope-freq-scale",
        rope_scale,
        env=("LLAMA_ARG_ROPE_SCALE",),
        default="none",
    ),
    Option(
        "yarn_orig_ctx",
        ("--yarn-orig-ctx",),
        "YaRN: context size the model was trained with (0 = the model's)",
        integer(0),
    ),
    Option(
        "yarn_ext_factor", ("--yarn-ext-factor",), "YaRN: extrapolation mix factor (-1 = the model's)", number(-1.0)
    ),
    Option(
        "yarn_attn_factor",
        ("--yarn-attn-factor",),
        "YaRN: attention magnitude factor (-1 = the model's)",
        number(-1.0),
    ),
    Option("yarn_beta_slow", ("--yarn-beta-slow",), "YaRN: high correction dimension (-1 = the model's)", number(-1.0)),
    Option("yarn_beta_fast", ("--yarn-beta-fast",), "YaRN: low correction dimension (-1 = the model's)", number(-1.0)),
    Option(
        "embedding",
        ("--embedding", "--embeddings"),
        "Enable the embedding endpoints",
        env=("LLAMA_ARG_EMBEDDINGS",),
    ),
    Option(
        "pooling",
        ("--pooling",),
        "Pooling of embeddings",
        choice("none", "mean", "cls", "last", "rank"),
        value="KIND",
        default="the model's",
    ),
    Option(
        "embd_normalize",
        ("--embd-normalize",),
        "Norm by which embeddings are scaled: -1 none, 0 largest number (to 16 bits), 1 sum, 2 Euclid's, others p-norm",
        integer(-1, MAX_NORM),
    ),
    Option(
        "pooling",
        ("--reranking", "--rerank"),
        "Enable the rerank endpoints. It is short for --embedding --pooling rank",
        reranking,
        env=("LLAMA_ARG_RERANKING",),
        bare="on",
        value="on|off",
        default="off",
    ),
)
