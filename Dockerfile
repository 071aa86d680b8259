# mmyolo_ext in a container, without a clone on the machine that runs it.
#
#   docker build -t mmyolo_ext .                                                         # CPU
#   docker build -t mmyolo_ext:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
#   docker run --rm --shm-size 2g -v "$PWD:/work" mmyolo_ext train yolov5_n data.yaml --epochs 3
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" mmyolo_ext:cuda train yolov5_n data.yaml
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# PyTorch's wheels for CUDA bring the CUDA libraries; the machine supplies the driver
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=export,tune,demo

# git: MMEngine records it; libgl1 and libglib2.0-0: OpenCV
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY requirements requirements
# torch first and alone: mmcv, built in an isolated environment without torch, then compiles no ops
RUN grep '^torch==' requirements/tested.txt >torch.txt \
    && grep -E '^onedl-mm(cv|detection)==' requirements/tested.txt >host.txt \
    && grep -vE '^(torch==|#|$)' requirements/tested.txt >others.txt \
    && pip install --no-cache-dir -r torch.txt --index-url "$TORCH_INDEX" \
    && pip install --no-cache-dir --no-deps -r host.txt \
    && pip install --no-cache-dir -r others.txt
COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]" && mmyolo-ext doctor && rm -rf /src/*

WORKDIR /work
ENTRYPOINT ["mmyolo-ext"]
CMD ["--help"]
