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
# Only what the engine's environment does not have yet is added, and compiled (some packages carry what is no Python):
# the lock has the engine's as its constraint.
RUN touch /tmp/before \
 && uv pip install --system-certs --quiet --python /opt/venv --require-hashes --no-deps -r /locks/trainer.txt \
 && find /opt/venv -name '*.py' -cnewer /tmp/before > /tmp/added \
 && { python -m compileall -qq --invalidation-mode unchecked-hash -j 0 -i /tmp/added || true; } \
 && rm /usr/local/bin/uv /tmp/before /tmp/added
ENV PYTHONPATH=/app
WORKDIR /app
ENTRYPOINT []
CMD ["python", "-m", "llmops_serving.jobs.finetune"]
COPY operator/llmops/__init__.py operator/llmops/names.py /app/llmops/
COPY operator/llmops/api /app/llmops/api
COPY operator/llmops/judge /app/llmops/judge
COPY serving/llmops_serving /app/llmops_serving
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 65532:65532
