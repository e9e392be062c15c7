"""How a model is loaded."""

from dataclasses import dataclass
from typing import Literal

POOLING = {"": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}  # LLAMA_POOLING_TYPE; -1: the model's own


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What to load and how; names and meanings are those of Config."""

    model: str
    lora: tuple[tuple[str, float], ...] = ()
    mmproj: str = ""
    ctx_size: int = 512  # 0: from the model
    n_seq_max: int = 1
    n_slots: int = 1
    batch_size: int = 2048
    ubatch_size: int = 512
    threads: int = 1
    threads_batch: int = 1
    n_gpu_layers: int = -1
    main_gpu: int = 0
    split_mode: Literal["none", "layer", "row"] = "layer"
    tensor_split: tuple[float, ...] = ()
    mlock: bool = False
    mmap: bool = True
    numa: str = ""
    kv_unified: bool = False
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: Literal["auto", "on", "off"] = "auto"
    rope_scaling: str = ""
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    yarn_orig_ctx: int = 0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0
    embedding: bool = False
    pooling: str = ""
    shifts: bool = True  # whether requests may shift positions: by context shift or self-extend
