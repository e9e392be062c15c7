"""The Kubernetes operator: a LlamaServer object becomes pods that serve a model."""

__version__ = "0.1.0"
