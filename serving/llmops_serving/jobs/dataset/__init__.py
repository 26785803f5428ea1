"""Checks a data set on a CPU before an accelerator is taken: `python -m llmops_serving.jobs.dataset`.

`reading` turns a file into rows, `formats` judges each of them, `rendering` makes the tokens that are trained on,
`check` puts them together and leaves the prepared rows and a report; `__main__` reads arguments and environment.
"""
