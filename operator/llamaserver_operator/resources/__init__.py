"""Makes the manifests of an object's children from its spec. Pure. It may import spec, files, config and names."""
