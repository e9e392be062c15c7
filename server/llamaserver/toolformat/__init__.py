"""How a model writes tool calls, found by rendering its chat template, and a parser of its answers as they come.

The idea is llama.cpp's (docs/autoparser.md): a template that renders a call tells how the model writes one. The format
is what differs between renderings that differ in one thing.
"""
