"""The Backend protocol over llama.cpp. No other package imports llama_cpp.

May import interfaces and errors.
"""
