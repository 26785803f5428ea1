"""The two commands' machinery: a cluster with the platform on it, and one real answer from it."""
