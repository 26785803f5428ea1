"""A local model hub: serves a directory through the Hugging Face Hub's HTTP API, for tests and air-gapped demos."""

from hack.hub.faults import Fault, Faults
from hack.hub.repository import Repository, Tree
from hack.hub.server import Hub

__all__ = ["Fault", "Faults", "Hub", "Repository", "Tree"]
