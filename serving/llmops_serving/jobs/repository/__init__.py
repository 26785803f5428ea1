"""The weights repository: restore points of models in any object store, deduplicated by tensor and encrypted.

docs/repository-format.md describes what is stored. `write.backup`, `read.restore`, `verify.verify` and
`collect.collect` are the four verbs; `Repository` is what they work on.
"""
