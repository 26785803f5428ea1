# syntax=docker/dockerfile:1
# The gateway and the jobs: one image, so that a cluster pulls, and an air-gapped one mirrors, one thing less.
# Jobs are started with `python -m llmops_serving.jobs.NAME` in place of the command below.
ARG BASE=python:3.12-slim
ARG BUILDER=python:3.12-slim

FROM ${BUILDER} AS dependencies
COPY hack/locks/builder.txt hack/locks/serving.txt /locks/
RUN python3 -m venv /tmp/builder && /tmp/builder/bin/pip install --quiet --require-hashes -r /locks/builder.txt \
 && python3 -m venv --without-pip /opt/venv \
 && /tmp/builder/bin/uv pip install --system-certs --quiet --python /opt/venv --require-hashes --no-deps --compile-bytecode \
    -r /locks/serving.txt

FROM ${BASE}
COPY --from=dependencies /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
USER 65532:65532
CMD ["python", "-m", "llmops_serving.gateway"]
COPY operator/llmops /app/llmops
COPY serving/llmops_serving /app/llmops_serving
