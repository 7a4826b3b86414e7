# Dropserve, built in one stage and run in another, without root and without anything to build with.
#
#   docker build -t dropserve .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     --memory 512m --publish 127.0.0.1:8000:8000 dropserve

# All but the base is exact, by versions and hashes: docs/deploying.md says how to make that exact.
ARG BASE=python:3.11-slim

# hadolint ignore=DL3006
FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/dropserve
# The dependencies are a layer of their own: new code does not install them again.
COPY deploy/requirements.txt deploy/build-requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/dropserve/bin/python -m pip install --require-hashes --requirement requirements.txt \
    && python -m venv /opt/build \
    && /opt/build/bin/python -m pip install --require-hashes --requirement build-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY deploy/package deploy/package
COPY model model
COPY training training
COPY app app
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /opt/build . \
    && /opt/dropserve/bin/python -m pip install --no-deps --no-index /opt/build/*.whl \
    && /opt/dropserve/bin/python -m pip check \
    && /opt/dropserve/bin/python -m pip uninstall --yes setuptools pip
# For all levels of CPUs, so that no container compiles. -P: not from /src.
RUN /opt/dropserve/bin/python -P -m model.compiling
# What only builds or tests: static libraries and the packages' tests.
RUN find /opt/dropserve -depth \( -name '*.a' -o -type d -name tests \) -exec rm -rf {} + \
    && /opt/dropserve/bin/python -c "import app.process.server"

# hadolint ignore=DL3006
FROM ${BASE}
LABEL org.opencontainers.image.title="Dropserve" \
      org.opencontainers.image.description="Says which handwritten digit it sees and, with MC dropout, how sure it is" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/dropserve /opt/dropserve
# On every interface of the container. What it may write is /tmp, and that only with several workers.
ENV PATH="/opt/dropserve/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DROPSERVE_HOST=0.0.0.0 \
    DROPSERVE_PORT=8000
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
# It serves on for DROPSERVE_DRAIN_SECONDS, 5, and ends within 2 more: `docker stop` waits for 10.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["dropserve", "health"]
ENTRYPOINT ["dropserve"]
CMD ["serve"]
