# syntax=docker/dockerfile:1
# A model hub with one small model, for demos and tests on machines that reach no hub. Not for production.
# `--build-context model=DIR` names the folder of the model.
ARG SERVING=llmops-serving
FROM ${SERVING}
COPY --from=model . /srv/hub/llmops/tiny-llama/
CMD ["python", "-m", "hack.hub", "--root", "/srv/hub", "--host", "0.0.0.0", "--port", "8080"]
COPY hack/hub /app/hack/hub
