"""From a row of logits to a token: the chain of samplers.

May import grammar, interfaces and errors.
"""
