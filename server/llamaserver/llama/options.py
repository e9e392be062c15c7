"""The options for loading a model."""

from dataclasses import dataclass
from typing import Literal

POOLING = {"": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}  # LLAMA_POOLING_TYPE. -1: the model's own


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The files to load and the settings. The names and meanings are those of Config, which has the defaults."""

    model: str
    lora: tuple[tuple[str, float], ...]
    override_kv: tuple[tuple[str, int | float | bool | str], ...]
    mmproj: str
    max_image_pixels: int
    ctx_size: int  # 0: from the model
    n_seq_max: int
    n_slots: int
    batch_size: int
    ubatch_size: int
    threads: int
    threads_batch: int
    n_gpu_layers: int
    main_gpu: int
    split_mode: Literal["none", "layer", "row"]
    tensor_split: tuple[float, ...]
    device: tuple[str, ...]
    override_tensor: tuple[tuple[str, str], ...]
    kv_offload: bool
    mlock: bool
    mmap: bool
    direct_io: bool
    numa: str
    kv_unified: bool
    cache_type_k: str
    cache_type_v: str
    flash_attn: Literal["auto", "on", "off"]
    rope_scaling: str
    rope_freq_base: float
    rope_freq_scale: float
    yarn_orig_ctx: int
    yarn_ext_factor: float
    yarn_attn_factor: float
    yarn_beta_fast: float
    yarn_beta_slow: float
    embedding: bool
    pooling: str
    shifts: bool  # whether requests may shift positions, by a context shift or by self-extend
