"""The engine's thread: it takes requests in, runs the steps of scheduling and decoding, and sends events out.

May import scheduling, sampling, kvstore, interfaces and errors. It reaches llama.cpp through interfaces only.
"""
