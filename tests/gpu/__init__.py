"""The kit for GPUs: builds the CUDA module, checks the server on it, measures it beside llama-server."""
