"""From the server's configuration to what the scheduler and the library take. Config has the only defaults."""

from pathlib import Path

from .config import MAX_SEQUENCES, Config
from .llama.options import LoadOptions
from .scheduling.settings import EngineSettings
from .threads import default_threads

_RESIDENTS = 8  # conversations that a unified cache keeps beside those on slots


def engine_settings(config: Config) -> EngineSettings:
    """How the engine schedules. With a unified cache, every slot may use all of the context."""
    return EngineSettings(
        n_slots=config.parallel,
        slot_ctx=config.ctx_size if config.kv_unified else config.slot_ctx,
        prompt_budget=config.prompt_budget,
        cont_batching=config.cont_batching,
        context_shift=config.context_shift,
        max_queue=config.max_queue,
        grp_attn_n=config.grp_attn_n,
        grp_attn_w=config.grp_attn_w,
        n_predict=config.n_predict,
        unlimited_answers=config.unlimited_answers,
        lora_scales=tuple(scale for _, scale in config.lora),
        decode_timeout=config.decode_timeout,
    )


def load_options(config: Config, model: Path) -> LoadOptions:
    """The model that the library loads, and how."""
    threads = config.threads or default_threads()
    return LoadOptions(
        model=str(model),
        lora=config.lora,
        override_kv=config.override_kv,
        mmproj=config.mmproj,
        max_image_pixels=config.max_image_pixels,
        ctx_size=config.ctx_size,
        n_seq_max=_sequences(config),
        n_slots=config.parallel,
        batch_size=config.batch_size,
        ubatch_size=_micro_batch(config),
        threads=threads,
        threads_batch=config.threads_batch or threads,
        n_gpu_layers=config.n_gpu_layers,
        main_gpu=config.main_gpu,
        split_mode=config.split_mode,
        tensor_split=config.tensor_split,
        device=config.device,
        override_tensor=config.override_tensor,
        kv_offload=config.kv_offload,
        mlock=config.mlock,
        mmap=config.mmap,
        direct_io=config.direct_io,
        numa=config.numa,
        kv_unified=bool(config.kv_unified),
        cache_type_k=config.cache_type_k,
        cache_type_v=config.cache_type_v,
        flash_attn=config.flash_attn,
        rope_scaling=config.rope_scaling,
        rope_freq_base=config.rope_freq_base,
        rope_freq_scale=config.rope_freq_scale,
        yarn_orig_ctx=config.yarn_orig_ctx,
        yarn_ext_factor=config.yarn_ext_factor,
        yarn_attn_factor=config.yarn_attn_factor,
        yarn_beta_fast=config.yarn_beta_fast,
        yarn_beta_slow=config.yarn_beta_slow,
        embedding=config.embedding,
        pooling=config.pooling,
        shifts=config.context_shift or config.grp_attn_n > 1,
    )


def _sequences(config: Config) -> int:
    if config.kv_unified:
        return min(config.parallel + _RESIDENTS, MAX_SEQUENCES)
    return config.parallel


def _micro_batch(config: Config) -> int:
    """Tokens of a physical batch. An input of a pooled embedding has to fit into one."""
    if config.embedding:
        return config.batch_size
    return min(config.ubatch_size, config.batch_size)
