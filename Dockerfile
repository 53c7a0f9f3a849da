# docker build -t sgcl .                                  torch as pip finds it: PyPI's has CUDA on x86-64
# docker build -t sgcl --build-arg TORCH=cuda .           PyPI's torch with CUDA, whatever other indexes offer
# docker build -t sgcl --build-arg TORCH=cpu .            without CUDA, some 4 GB smaller; needs an index with that wheel
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" sgcl tile slides --out tiles
#
# Build arguments:
#   TORCH                                 cuda, or the wheel's local version label (cpu, cu126, ...) at the pinned version
#   EXTRAS                                extras of sgcl, for example timm,transformers
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS     where packages come from; pip's defaults if not given

FROM python:3.12-slim-bookworm AS build

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
ARG TORCH
COPY constraints.txt ./
# A label is part of the version: ==2.0+cpu is that wheel alone. ===2.0 is the version without any label, which is PyPI's.
RUN case "$TORCH" in \
      "") cp constraints.txt pins.txt ;; \
      cuda) sed 's/^torch==/torch===/' constraints.txt > pins.txt ;; \
      *) sed "s/^torch==.*/&+$TORCH/" constraints.txt > pins.txt ;; \
    esac && grep '^torch=' pins.txt

ARG EXTRAS
COPY pyproject.toml README.md LICENSE ./
COPY sgcl_cli ./sgcl_cli
RUN python -m venv /opt/sgcl \
    && /opt/sgcl/bin/pip wheel --no-deps --wheel-dir /wheel . \
    && /opt/sgcl/bin/pip install --constraint pins.txt "$(echo /wheel/*.whl)${EXTRAS:+[$EXTRAS]}" \
    && /opt/sgcl/bin/sgcl --version
RUN TORCH="$TORCH" /opt/sgcl/bin/python -c "import os, sys, torch; \
cuda = torch.version.cuda; \
print('torch', torch.__version__, 'with CUDA ' + cuda if cuda else 'without CUDA'); \
sys.exit('TORCH=cuda: the wheel for this platform has no CUDA' if os.environ['TORCH'] == 'cuda' and not cuda else 0)"
# Readable by every user, whatever the umask of the one who builds.
COPY sample_data /opt/sgcl/share/sample_data
RUN chmod -R a+rX /opt/sgcl

# No system package is added: OpenSlide, libjpeg-turbo, HDF5 and OpenCV come inside their wheels, and what these need
# (libc, libstdc++, libgcc, zlib) is part of the base image. CUDA's libraries come with torch, the driver from the host.
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
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN useradd --no-log-init --uid 10001 --gid 0 --no-create-home sgcl \
    && install --directory --owner=sgcl --group=0 --mode=0775 /data
COPY --from=build /opt/sgcl /opt/sgcl

USER 10001
WORKDIR /data
ENTRYPOINT ["sgcl"]
CMD ["--help"]
