"""Pure builders: spec in, manifests out; one file a kind."""
