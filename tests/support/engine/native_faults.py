"""Real native faults at chosen places: a library, compiled here and preloaded, that stands before functions of ggml.

The process itself crashes or computes wrongly in native code, on the thread and in the phase in which it
calls that function. In the environment:
- CRASH_IN_LOAD=1: when the model file is opened;
- CRASH_FROM_ROWS=n: when at least n tokens are evaluated at once;
- CRASH_IN_MODULE, WRONG_IN_MODULE=name: when that CPU module computes; the second spoils one row's logits.
"""

import shutil
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void * real(const char * name) {
    void * base = dlopen("libggml-base.so", RTLD_NOW | RTLD_NOLOAD);  /* not in the global scope */
    return dlsym(base, name);
}

static void crash(void) {
    *(volatile int *) NULL = 0;
}

static int computes(const char * variable) {
    const char * module = getenv(variable);
    char name[256], line[4096];
    int found = 0;
    if (!module) return 0;
    snprintf(name, sizeof name, "/libggml-cpu-%s.so", module);
    FILE * maps = fopen("/proc/self/maps", "r");
    while (!found && fgets(line, sizeof line, maps)) found = strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

void * gguf_init_from_file(void * file, unsigned long a, unsigned long b) {
    if (getenv("CRASH_IN_LOAD")) crash();
    return ((void * (*)(void *, unsigned long, unsigned long)) real("gguf_init_from_file"))(file, a, b);
}

static void * node_of(void * graph, int index) {
    return ((void * (*)(void *, int)) real("ggml_graph_node"))(graph, index);
}

static long rows_of(void * tensor) {
    return ((long (*)(void *)) real("ggml_nrows"))(tensor);
}

/* Of a graph, the first node has a row for each token, the last has the logits. */
int ggml_backend_sched_graph_compute_async(void * sched, void * graph) {
    const char * limit = getenv("CRASH_FROM_ROWS");
    if (limit && rows_of(node_of(graph, 0)) >= atol(limit)) crash();
    if (computes("CRASH_IN_MODULE")) crash();
    int status = ((int (*)(void *, void *)) real("ggml_backend_sched_graph_compute_async"))(sched, graph);
    if (computes("WRONG_IN_MODULE")) {
        void * logits = node_of(graph, -1);
        float * numbers = ((float * (*)(void *)) real("ggml_get_data_f32"))(logits);
        long width = ((long (*)(void *)) real("ggml_nelements"))(logits) / rows_of(logits);
        for (long i = 0; i < width; ++i) numbers[i] = -numbers[i];
    }
    return status;
}
"""


def compiled(folder: Path) -> Path:
    """The library to preload; it changes nothing unless the environment asks."""
    source, library = folder / "faults.c", folder / "faults.so"
    source.write_text(_SOURCE)
    compiler = next(found for name in ("cc", "gcc", "clang") if (found := shutil.which(name)))
    subprocess.run([compiler, "-O0", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
