# syntax=docker/dockerfile:1
# A model as an image, for oci:// sources: its files at the root, nothing else.
# `--build-context model=DIR` names the folder of the model.
FROM scratch
COPY --from=model . /
