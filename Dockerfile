# docker build -t sgcl .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" sgcl tile slides --out patches
#
# Packages come from where pip's own settings say; give them as build arguments:
#   --build-arg PIP_INDEX_URL=...  --build-arg PIP_EXTRA_INDEX_URL=...  --build-arg PIP_FIND_LINKS=...
# With a CPU wheel of torch (an extra index or a find-links page that offers the pinned version as +cpu) the image is
# about 4 GB smaller; it then runs without CUDA.

FROM python:3.12-slim-bookworm AS build

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY sgcl_cli ./sgcl_cli
RUN python -m venv /opt/sgcl \
    && pip wheel --no-deps --wheel-dir /wheel . \
    && /opt/sgcl/bin/pip install --constraint constraints.txt /wheel/*.whl \
    && /opt/sgcl/bin/sgcl --version

# No system package is added: OpenSlide, libjpeg-turbo, HDF5 and OpenCV come inside their wheels, and what these need
# (libc, libstdc++, libgcc, zlib) is part of the base image.
FROM python:3.12-slim-bookworm

LABEL org.opencontainers.image.title="sgcl" \
      org.opencontainers.image.description="From whole-slide images to a pretrained encoder to honest downstream numbers" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# Caches go to /tmp and USER is set, so that any --user works, also one without an entry in /etc/passwd.
ENV PATH=/opt/sgcl/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=sgcl \
    MPLCONFIGDIR=/tmp/matplotlib

RUN useradd --no-log-init --uid 10001 --gid 0 --no-create-home sgcl \
    && install --directory --owner=sgcl --group=0 --mode=0775 /data
COPY --from=build /opt/sgcl /opt/sgcl

USER 10001
WORKDIR /data
ENTRYPOINT ["sgcl"]
CMD ["--help"]
