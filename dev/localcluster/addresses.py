"""The addresses of the cluster. They exist in its network namespace only, so all clusters have the same."""

NODE_NAME = "node-1"
NODE = "172.31.99.1"
PODS = "10.88.0.0/16"
SERVICES = "10.96.0.0/16"
KUBERNETES = "10.96.0.1"  # the Service `kubernetes` gets the first address
DNS = "10.96.0.10"
API_PORT = 6443
