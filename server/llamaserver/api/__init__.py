"""The HTTP API: it turns request bodies into requests of the engine, and the engine's events into answers.

May import everything but llama/ and models/. Dialects (native, openai and so on) never import each other.
"""
