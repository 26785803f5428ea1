# syntax=docker/dockerfile:1
# Fine-tuning and evaluation, on top of the engine's image so that torch is stored once.
ARG ENGINE=llmops-engine-cpu
ARG BUILDER=python:3.12-slim

FROM ${BUILDER} AS dependencies
COPY hack/locks/builder.txt /locks/
RUN python3 -m venv /tmp/builder && /tmp/builder/bin/pip install --quiet --require-hashes -r /locks/builder.txt

FROM ${ENGINE}
USER 0
COPY hack/locks/trainer.txt /locks/
COPY --from=dependencies /tmp/builder/bin/uv /usr/local/bin/uv
# Only what the engine's environment does not have yet is added: the lock has the engine's as its constraint.
RUN uv pip install --system-certs --quiet --python /opt/venv --require-hashes --no-deps --compile-bytecode \
    -r /locks/trainer.txt && rm /usr/local/bin/uv
USER 65532:65532
ENV PYTHONPATH=/app
WORKDIR /app
ENTRYPOINT []
CMD ["python", "-m", "llmops_serving.jobs.finetune"]
COPY operator/llmops /app/llmops
COPY serving/llmops_serving /app/llmops_serving
