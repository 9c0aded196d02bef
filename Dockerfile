# The runtime and the page of `videolights serve`, without PyTorch.
#   docker build -t videolights .
#   docker run -p 8000:8000 -e VIDEOLIGHTS_TOKEN=secret -v "$PWD/exported/toyworld:/bundle:ro" videolights
# On a GPU: docker build --build-arg EXTRAS=gpu,serve --build-arg CUDA="onnxruntime-gpu[cuda,cudnn]" . and docker run --gpus all
ARG PYTHON=3.11-slim

FROM python:${PYTHON} AS build
ARG EXTRAS=runtime,serve
ARG CUDA=
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY videolights videolights
RUN python -m venv /app && /app/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]" ${CUDA}
# tests, caches, pip itself and debug symbols are of no use here
RUN /app/bin/pip uninstall --yes pip setuptools \
 && find /app -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} + \
 && find /app -name "*.so*" -type f -exec strip --strip-unneeded {} + 2>/dev/null || true

FROM python:${PYTHON}
RUN useradd --system --uid 10001 videolights
COPY --from=build /app /app
USER videolights
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
# /health answers without the token
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["/app/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["/app/bin/videolights", "serve"]
CMD ["/bundle", "--host", "0.0.0.0", "--port", "8000"]
