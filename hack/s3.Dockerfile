# syntax=docker/dockerfile:1
# An S3 server with Object Lock and one bucket, for demos and tests. Not for production.
# `--build-context versitygw=DIR` names the folder with versitygw.
ARG BASE=python:3.12-slim
FROM ${BASE}
COPY --from=versitygw versitygw /usr/local/bin/versitygw
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
USER 65532:65532
CMD ["python3", "-m", "hack.s3", "--root", "/srv/s3", "--bucket", "backups"]
COPY hack/s3 /app/hack/s3
