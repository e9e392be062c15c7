"""LlamaServer: llama.cpp models over HTTP, with slots and continuous batching."""

__version__ = "0.1.0"
