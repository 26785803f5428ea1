# syntax=docker/dockerfile:1
# Prometheus 3, the Prometheus 2 of Debian (2.42 in Debian 12), Alertmanager, and the sidecar that brings rules, for
# tests. Not for production.
# `--build-context prometheus=DIR` and `--build-context alertmanager=DIR` name the folders with the programs.
ARG BASE=python:3.12-slim

FROM ${BASE} AS debian
WORKDIR /debian
RUN apt-get update -q && apt-get download -q prometheus && dpkg-deb --extract prometheus_*.deb .

FROM ${BASE}
COPY --from=prometheus prometheus /usr/local/bin/prometheus-3
COPY --from=alertmanager alertmanager /usr/local/bin/alertmanager
COPY --from=debian /debian/usr/bin/prometheus /usr/local/bin/prometheus-2
COPY --from=debian /debian/usr/bin/promtool /usr/local/bin/promtool
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
USER 65532:65532
CMD ["python3", "-m", "hack.sidecar"]
COPY hack/sidecar /app/hack/sidecar
