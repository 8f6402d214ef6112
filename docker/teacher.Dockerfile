# The owner's side: shared and teacher_server; no distill_client, and no weights (bundles come from a mount).
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
COPY teacher_server teacher_server
RUN sed -i '/^distill = /d; s/, "distill_client"\]/]/' pyproject.toml \
    && pip install --no-deps --no-build-isolation --target /app .
COPY docker/prepare_teacher.py /app/docker/
RUN chmod -R a+rX /app

FROM torch AS teacher
COPY requirements/server.txt /requirements/
# Byte code of what importing torch needs, now: a read-only container can never write its own.
RUN pip install --no-deps --require-hashes -r /requirements/server.txt && python -c "import torch, torchvision"
# One uid in both images, and every mount point owned by it: whichever image meets an empty volume first, both can use it.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin app \
    && mkdir -p /app/data /bundle /ledger /key /answers \
    && chown app:app /app/data /bundle /ledger /key /answers
COPY --from=program /app /app
WORKDIR /app
USER 10001:10001
ENV HOME=/tmp PATH=/app/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
CMD ["teacher", "serve", "--host", "0.0.0.0"]
