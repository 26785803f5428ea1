"""How fast the operator writes, what it costs at rest, and what a machine could do at best."""
