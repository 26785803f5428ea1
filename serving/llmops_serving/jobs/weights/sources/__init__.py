"""Where weights come from: one module per protocol, all behind `Source`."""
