# docker build -t segrecipes .
# docker run --rm --gpus all --shm-size=8g -v "$PWD/runs:/segrecipes/runs" segrecipes composer main.py yamls/deeplabv3.yaml
#
# The README's steps, one after the other: git, make and a Python; make install; the environment on the path.
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /segrecipes
COPY . .
RUN make install && rm -rf /root/.cache

ENV PATH=/segrecipes/.venv/bin:$PATH
CMD ["segrecipes", "--help"]
