"""The options for the KV cache and the store of conversations."""

from ...option_readers import choice, integer, number
from ..option import Option

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
CACHE: tuple[Option, ...] = (
    Option(
        "kv_unified",
        ("-kvu", "--kv-unified"),
        "Share one KV cache among all slots",
        off=("-no-kvu", "--no-kv-unified"),
    ),
    Option(
        "cache_type_k",
        ("-ctk", "--cache-type-k"),
        "Data type of K in the KV cache",
        choice(*CACHE_TYPES),
        value="TYPE",
    ),
    Option(
        "cache_type_v",
        ("-ctv", "--cache-type-v"),
        "Data type of V in the KV cache",
        choice(*CACHE_TYPES),
        value="TYPE",
    ),
    Option(
        "cache_ram",
        ("-cram", "--cache-ram"),
        "Host memory in MiB for conversations that leave the KV cache (0 = none, -1 = no limit)",
        integer(-1),
    ),
    Option(
        "cache_isolation",
        ("--cache-isolation",),
        "Whether requests reuse cached prompts of their own API key only (per-key), or of all keys (shared)",
        choice("per-key", "shared"),
        value="MODE",
    ),
    Option(
        "kv_store",
        ("--kv-store",),
        "Folder for saved conversations. A restarted server restores them",
        str,
        value="DIR",
    ),
    Option(
        "kv_store_mode",
        ("--kv-store-mode",),
        "When to save conversations: after each answer (continuous), when they leave the KV cache and at shutdown "
        "(shutdown), or never (off)",
        choice("off", "shutdown", "continuous"),
        value="MODE",
    ),
    Option(
        "kv_store_max_bytes",
        ("--kv-store-max-bytes",),
        "Largest size of --kv-store in bytes (0 = no limit). The least recently used conversations are deleted first",
        integer(0, 2**63 - 1),
    ),
    Option(
        "kv_store_ttl",
        ("--kv-store-ttl",),
        "Delete saved conversations not used for this many seconds (0 = never)",
        number(0.0),
    ),
    Option(
        "kv_store_min_tokens",
        ("--kv-store-min-tokens",),
        "Save only conversations of at least this many tokens",
        integer(0),
    ),
    Option(
        "kv_store_key_file",
        ("--kv-store-key-file",),
        "File with the secret key of --kv-store, at least 32 bytes. Without it, a key is made in the folder",
        str,
        value="FNAME",
    ),
)
