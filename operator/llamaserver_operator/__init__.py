"""The Kubernetes operator: it makes pods that serve a model from a LlamaServer object."""

__version__ = "0.1.0"
