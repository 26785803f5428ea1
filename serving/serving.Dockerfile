# syntax=docker/dockerfile:1
# The gateway and the jobs: one image, so that a cluster pulls, and an air-gapped one mirrors, one thing less.
# The gateway's data path is compiled to C; everything else in it is the Python it looks like.
# Jobs are started with `python -m llmops_serving.jobs.NAME` in place of the command below.
ARG BASE=python:3.12-slim
ARG COMPILER=python:3.12

FROM ${COMPILER} AS built
# Bytecode that is believed without a look at the source: layers round times to seconds, and a Python that may not
# write would otherwise compile half of its modules again at every start.
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH
COPY hack/locks/builder.txt hack/locks/serving.txt hack/locks/compiler.txt /locks/
RUN python3 -m venv /tmp/builder && /tmp/builder/bin/pip install --quiet --require-hashes -r /locks/builder.txt \
 && python3 -m venv --without-pip /opt/venv && python3 -m venv --without-pip /tmp/compiler \
 && for venv in /opt/venv=serving /tmp/compiler=compiler; do \
      /tmp/builder/bin/uv pip install --system-certs --quiet --python "${venv%=*}" --require-hashes --no-deps \
        --compile-bytecode -r "/locks/${venv#*=}.txt" || exit 1; \
    done
COPY hack/compiled.py /src/hack/compiled.py
COPY hack/images/places.py /src/hack/images/places.py
COPY operator/llmops/__init__.py operator/llmops/names.py /src/operator/llmops/
COPY operator/llmops/api/__init__.py operator/llmops/api/conditions.py /src/operator/llmops/api/
COPY serving/llmops_serving/__init__.py /src/serving/llmops_serving/
COPY serving/llmops_serving/gateway /src/serving/llmops_serving/gateway
RUN cd /src && LLMOPS_COMPILE_FOR=/opt/venv/bin/python /tmp/compiler/bin/python -m hack.compiled /compiled

FROM ${BASE}
COPY --from=built /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
COPY operator/llmops/__init__.py operator/llmops/names.py /app/llmops/
COPY operator/llmops/api /app/llmops/api
COPY operator/llmops/judge /app/llmops/judge
COPY serving/llmops_serving /app/llmops_serving
COPY --from=built /compiled /app
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 65532:65532
CMD ["python", "-m", "llmops_serving.gateway"]
