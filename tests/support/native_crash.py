"""A real native crash at a chosen place: a library, compiled here and preloaded, that stands before a function of ggml.

The server's own process dies in native code, on the thread and in the phase in which it calls that function.
"""

import shutil
import subprocess
from pathlib import Path

# The first is called once a file is opened, the second for every micro-batch: its first node has a row a token.
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

static void * real(const char * name) {
    void * base = dlopen("libggml-base.so", RTLD_NOW | RTLD_NOLOAD);  /* not in the global scope */
    return dlsym(base, name);
}

static void crash(void) {
    *(volatile int *) NULL = 0;
}

void * gguf_init_from_file(void * file, unsigned long a, unsigned long b) {
    if (getenv("CRASH_IN_LOAD")) crash();
    return ((void * (*)(void *, unsigned long, unsigned long)) real("gguf_init_from_file"))(file, a, b);
}

int ggml_backend_sched_graph_compute_async(void * sched, void * graph) {
    const char * rows = getenv("CRASH_FROM_ROWS");
    if (rows) {
        void * node = ((void * (*)(void *, int)) real("ggml_graph_node"))(graph, 0);
        if (((long (*)(void *)) real("ggml_nrows"))(node) >= atol(rows)) crash();
    }
    return ((int (*)(void *, void *)) real("ggml_backend_sched_graph_compute_async"))(sched, graph);
}
"""


def compiled(folder: Path) -> Path:
    """The library to preload. It does nothing unless CRASH_IN_LOAD or CRASH_FROM_ROWS is in the environment."""
    source, library = folder / "crash.c", folder / "crash.so"
    source.write_text(_SOURCE)
    compiler = next(found for name in ("cc", "gcc", "clang") if (found := shutil.which(name)))
    subprocess.run([compiler, "-O0", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
