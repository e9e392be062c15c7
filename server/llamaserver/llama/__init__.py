"""llama.cpp behind the Backend protocol. The only package that imports llama_cpp.

May import interfaces and errors.
"""
