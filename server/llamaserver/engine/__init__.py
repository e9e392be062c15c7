"""The engine's thread. It takes requests in, schedules and decodes them step by step, and sends events out.

May import scheduling, sampling, kvstore, interfaces and errors. It reaches llama.cpp through interfaces only.
"""
