"""What we change in llama.cpp's source before it is compiled, for our library and the benchmarks' peer alike.

A patch does nothing until somebody asks for it at run time, so both sides of a benchmark can run
the same library. It is exact text, replaced once: a release that changed it stops the build.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Patch:
    """In `file`, below the source distribution's top: `before` becomes `after`."""

    file: str
    before: str
    after: str


_CPU = "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c"
_MUL_MAT = """void ggml_compute_forward_mul_mat(
        const struct ggml_compute_params * params,
              struct ggml_tensor * dst) {
"""

# With GGML_ROWS_BY_THREAD=1 each thread takes one run of a matrix's rows while few tokens are
# evaluated, as it does on NUMA machines, instead of one chunk of rows after another as it comes free.
# Nine chunks for two threads are five and four, and each jump leaves the prefetcher behind: measured
# on two cores, one stream of the default model decodes 1.4 times as fast, eight streams 1.1 times
# (docs/performance.md). Each row is computed as before, so the results are the same bit for bit.
PATCHES = (
    Patch(
        _CPU,
        _MUL_MAT,
        """static bool rows_by_thread(void) {
    static atomic_int known = -1;
    int on = atomic_load_explicit(&known, memory_order_relaxed);
    if (on < 0) {
        const char * value = getenv("GGML_ROWS_BY_THREAD");
        on = value != NULL && strcmp(value, "1") == 0;
        atomic_store_explicit(&known, on, memory_order_relaxed);
    }
    return on;
}

"""
        + _MUL_MAT,
    ),
    Patch(
        _CPU,
        "    if (nchunk0 * nchunk1 < nth * 4 || ggml_is_numa()) {\n",
        "    if (nchunk0 * nchunk1 < nth * 4 || ggml_is_numa() || (nchunk1 == 1 && rows_by_thread())) {\n",
    ),
)


def digest() -> str:
    """Tells builds with other patches apart."""
    return hashlib.sha256(repr(PATCHES).encode()).hexdigest()


def apply(top: Path) -> None:
    """Patch an unpacked source distribution; exits where one does not fit."""
    for patch in PATCHES:
        path = top / patch.file
        text = path.read_text() if path.exists() else ""
        if text.count(patch.before) != 1:
            sys.exit(f"a patch of tools/patches.py does not fit {patch.file}: this release has changed there")
        path.write_text(text.replace(patch.before, patch.after))
