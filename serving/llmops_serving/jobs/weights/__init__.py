"""Brings a model's files onto a volume, once, proven: `python -m llmops_serving.jobs.weights`.

`__main__` reads the command line and the environment; `sources` know where bytes come from; `names` and `content` judge
what is hostile; `landing` writes, resumes and hashes; `marker` is what a finished download leaves behind.
"""
