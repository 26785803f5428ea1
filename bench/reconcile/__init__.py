"""How fast the operator brings deployments to where they should be, against a writer that only writes."""
