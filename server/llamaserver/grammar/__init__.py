"""Grammars that restrict an answer: GBNF and JSON schemas, compiled and matched against a vocabulary.

May import interfaces and errors.
"""
