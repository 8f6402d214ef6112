# The distiller's side: shared and distill_client; no teacher_server and no weights.
# The stage `torch` is the same, word for word, in both Dockerfiles: it is built once, and both images share its layers.
FROM python:3.11-slim AS torch
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Another index for torch and torchvision, such as PyTorch's own with CPU-only builds. Those are other files than the locked
# ones, so they are held to the locked versions and not to hashes; no CUDA package is installed.
ARG TORCH_INDEX=""
COPY requirements/torch.txt /requirements/
RUN if [ -z "$TORCH_INDEX" ]; then \
      pip install --no-compile --no-deps --require-hashes -r /requirements/torch.txt; \
    else \
      pip install --no-compile --no-deps --index-url "$TORCH_INDEX" \
        $(grep -oE '^(torch|torchvision)==[0-9.]+' /requirements/torch.txt); \
    fi

# The program, built from the needed folders alone: its code, its command, and nothing of the other side.
FROM python:3.11-slim AS program
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.txt /requirements/
RUN pip install --no-deps --require-hashes -r /requirements/build.txt
WORKDIR /build
COPY pyproject.toml README.md ./
COPY shared shared
COPY distill_client distill_client
RUN sed -i '/^teacher = /d; s/"teacher_server", //' pyproject.toml \
    && pip install --no-deps --no-build-isolation --target /app .
COPY configs /app/configs
COPY docker/find_data.py docker/run_client.py /app/docker/
RUN chmod -R a+rX /app

FROM torch AS client
COPY requirements/client.txt /requirements/
# Byte code of what importing torch needs, now: a read-only container can never write its own.
RUN pip install --no-deps --require-hashes -r /requirements/client.txt && python -c "import torch, torchvision"
# One uid in both images, and every mount point owned by it: whichever image meets an empty volume first, both can use it.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin app \
    && mkdir -p /app/data /key /answers /runs \
    && chown app:app /app/data /key /answers /runs
COPY --from=program /app /app
WORKDIR /app
USER 10001:10001
ENV HOME=/tmp PATH=/app/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
CMD ["distill", "--help"]
