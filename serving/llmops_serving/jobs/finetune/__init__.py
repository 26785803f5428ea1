"""Adapts a model to checked rows: `python -m llmops_serving.jobs.finetune`.

TRL and PEFT train. `settings` makes their configuration out of a spec, `checkpoints` keeps what they save whole on
disk, `watch` is what is done between two steps, `artifact` is what is left at the end, `train` puts them together.
"""
