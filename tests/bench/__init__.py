"""The benchmarks: this server beside llama.cpp's own, on the same model with the same settings."""
