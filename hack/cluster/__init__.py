"""A real Kubernetes cluster, or only its API server, on one machine.

``ControlPlane`` gives tests an API server of their own; the command ``python3 -m hack.cluster`` keeps a whole node.
Only the standard library is used, so that it runs before any virtual environment exists.
"""
