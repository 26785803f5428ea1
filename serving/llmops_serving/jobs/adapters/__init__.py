"""Gives adapters to one running engine: `python -m llmops_serving.jobs.adapters`.

`store` copies them to the volume the engine reads, `engine` speaks to it, `proof` judges what it answers, `load` puts
them together. An adapter gets the name that clients send only after it was proven under another.
"""
