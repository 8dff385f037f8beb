# The image of Airflow's services, of jobs and of Spark's nodes; docker-compose.yaml builds it. docs/docker.md says more.
#
# Pinned: the base by tag (or digest: --build-arg PYTHON_IMAGE=…@sha256:…), uv and every Python package by hash, jars by
# hash. Layers are ordered by how seldom they change: a changed contract or DAG makes only the last few anew.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian serves only the newest version of a package, so none is named. Java's set-up wants the folder of man pages.
# hadolint ignore=DL3008
RUN --mount=type=bind,source=packages.txt,target=/packages.txt \
    mkdir -p /usr/share/man/man1 \
    && apt-get update \
    && xargs --arg-file=/packages.txt apt-get install --yes --no-install-recommends \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && useradd --uid 50000 --gid 0 --no-log-init --create-home airflow \
    && install -d -o airflow -g root -m 0775 /opt/airflow /opt/airflow/logs \
    && install -d -o airflow -g root -m 0700 /var/lib/lakehouse /var/lib/lakehouse/sources
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8

# The environment: the whole lock, so that what runs here is what the tests ran with.
FROM base AS environment
RUN --mount=type=bind,source=docker/uv.txt,target=/uv.txt \
    python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r /uv.txt
# pyspark is built from source, by a setuptools that the lock pins, too. Compiled files that name the source's hash, not
# its date, are the same in every build.
ENV UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH
RUN --mount=type=bind,source=requirements.txt,target=/requirements.txt \
    --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv venv --python /usr/local/bin/python3.11 /opt/venv \
    && /opt/uv/bin/uv pip install --python /opt/venv/bin/python --require-hashes --compile-bytecode \
      --build-constraints /requirements.txt -r /requirements.txt

# The jars, fetched and verified by the program itself; only a change of these two folders fetches them again.
FROM environment AS jars
COPY include/lakehouse/__init__.py /jars/include/lakehouse/
COPY include/lakehouse/core /jars/include/lakehouse/core
COPY include/lakehouse/stack /jars/include/lakehouse/stack
ENV PYTHONPATH=/jars/include \
    LAKEHOUSE_CACHE=/opt/cache
RUN python -c "from lakehouse.core.settings import load_settings; from lakehouse.stack.jars import fetch_jars; fetch_jars(load_settings())" \
    && rm /opt/cache/*.lock

FROM base
COPY --from=environment /opt/venv /opt/venv
COPY --from=jars /opt/cache /opt/cache
WORKDIR /opt/lakehouse
COPY . .
# Contracts compile into an index: the folder belongs to the account that does it.
RUN --mount=type=bind,from=environment,source=/opt/uv,target=/opt/uv \
    /opt/uv/bin/uv pip install --python /opt/venv/bin/python --offline --no-cache --no-deps --no-build-isolation -e . \
    && python -m compileall -q --invalidation-mode unchecked-hash . \
    && install -d -o airflow -g root include/contracts
ENV AIRFLOW_HOME=/opt/airflow \
    LAKEHOUSE_HOME=/var/lib/lakehouse \
    LAKEHOUSE_CACHE=/opt/cache \
    PYTHONPATH=/opt/lakehouse:/opt/lakehouse/include
USER 50000:0
# How tasks are tried again, and whether Spark is a cluster, stands in the index, as the settings of these names say.
ARG LAKEHOUSE_TASK_RETRIES=3
ARG LAKEHOUSE_TASK_RETRY_SECONDS=60
ARG LAKEHOUSE_SPARK_MASTER=local[*]
RUN lakehouse contract compile
CMD ["lakehouse", "--help"]
