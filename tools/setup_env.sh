#!/usr/bin/env bash
# Sets up the Python environment and prints its interpreter; progress goes to standard error.
#
#   python="$(bash tools/setup_env.sh [--test])"
#
# Where:  the active virtualenv or conda environment (never conda's "base"), else .venv in this project, created with
#         the first Python >= 3.10 found (PYTHON=/path/to/python names another).
# What:   requirements/tested.txt (with --test also test.txt and docs.txt), without compiling anything. An
#         installed torch >= 2.4 is kept. On Linux without an NVIDIA GPU, the small CPU build of torch is preferred.
# Again:  a stamp in the environment records what was installed; if nothing changed, a run takes a second.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cpu_index=https://download.pytorch.org/whl/cpu
requirements=("$root/requirements/tested.txt")

say() { printf '%s\n' "$*" >&2; }
die() {
    say ''
    say "set-up stopped: $*"
    exit 1
}

case "${1:-}" in
    '') ;;
    --test) requirements+=("$root/requirements/test.txt" "$root/requirements/docs.txt") ;;
    *) die "unknown option $1; the only one is --test" ;;
esac

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_base_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python >= 3.10 found (python3: $(python3 --version 2>/dev/null || echo missing)).
  Debian, Ubuntu:  sudo apt install python3 python3-venv
  Fedora:          sudo dnf install python3.12
  anywhere:        conda create -n mmyolo_ext python=3.11 && conda activate mmyolo_ext
or name one: PYTHON=/path/to/python3.11 bash tools/quickstart.sh"
}

make_venv() {
    local base
    base="$(find_base_python)" || exit 1
    if ! "$base" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        die "$base cannot create virtual environments: its venv module is missing.
  Debian, Ubuntu:  sudo apt install python3-venv"
    fi
    say "  creating .venv with $("$base" --version) ($base)"
    "$base" -m venv --clear "$root/.venv" >&2 || die "could not create $root/.venv"
}

# Sets python.
choose_environment() {
    if [[ -n "${VIRTUAL_ENV:-}" && -x "${VIRTUAL_ENV}/bin/python" ]]; then
        python="$VIRTUAL_ENV/bin/python"
    elif [[ -n "${CONDA_PREFIX:-}" && "${CONDA_DEFAULT_ENV:-base}" != base && -x "${CONDA_PREFIX}/bin/python" ]]; then
        python="$CONDA_PREFIX/bin/python"
    else
        python="$root/.venv/bin/python"
        # An interrupted `python -m venv` leaves an interpreter without pip.
        "$python" -c 'import pip' >/dev/null 2>&1 || make_venv
    fi
    is_new_enough "$python" || die "the active environment has $("$python" --version): Python >= 3.10 is needed.
Deactivate it (this script then creates its own), or: conda create -n mmyolo_ext python=3.11"
    "$python" -c 'import pip' >/dev/null 2>&1 || die "the active environment has no pip: $python -m ensurepip"
}

# Print the stamp of the environment, whether all packages are still installed, and its prefix.
environment_state() {
    "$python" - "$root" "${requirements[@]}" <<'PYTHON'
import hashlib, importlib.util, pathlib, sys

root, *requirements = sys.argv[1:]
digest = hashlib.sha256(f'{root} {sys.version}'.encode())
for path in [*requirements, f'{root}/setup.py', f'{root}/tools/setup_env.sh']:
    digest.update(pathlib.Path(path).read_bytes())
needed = ['torch', 'mmengine', 'mmcv', 'mmdet', 'cv2', 'faster_coco_eval', 'sklearn', 'mmyolo_ext']
needed += ['pytest', 'sphinx', 'myst_parser', 'furo'] if len(requirements) > 1 else []
print(digest.hexdigest())
print('whole' if all(importlib.util.find_spec(name) for name in needed) else 'broken')
print(sys.prefix)
PYTHON
}

refuse_mixed_packages() {
    local mixed
    mixed="$("$python" - <<'PYTHON'
from importlib.metadata import distributions

names = {(found.metadata['Name'] or '').lower() for found in distributions()}
print(*sorted(names & {'mmcv', 'mmcv-full', 'mmcv-lite', 'mmdet', 'mmengine', 'mmengine-lite'}))
PYTHON
)"
    [[ -z "$mixed" ]] || die "the environment contains the original OpenMMLab packages ($mixed), which share their
folders with the maintained ones (onedl-*). Either deactivate it (this script then creates its own environment), or:
  $python -m pip uninstall -y $mixed"
}

# [on_failure=WORDS] step LABEL COMMAND...: runs COMMAND with its output in the log, shows the seconds meanwhile, and
# returns its exit status.
step() {
    local label="$1" start=$SECONDS status=0 ticker
    shift
    # The ticker watches this shell, so that it ends with it however that ends.
    if [[ -t 2 ]]; then
        (while sleep 1 && kill -0 $$ 2>/dev/null; do printf '\r  %-46s %4d s' "$label" $((SECONDS - start)) >&2; done) &
    else
        (while sleep 20 && kill -0 $$ 2>/dev/null; do say "  $label: $((SECONDS - start)) s so far"; done) &
    fi
    ticker=$!
    printf '\n== %s: %s\n' "$label" "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null || status=$?
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    [[ -t 2 ]] && printf '\r' >&2
    printf '  %-46s %4d s%s\n' "$label" $((SECONDS - start)) "$([[ $status == 0 ]] || printf ' (%s)' "${on_failure:-failed}")" >&2
    return "$status"
}

must() { step "$@" || die "the step \"$1\" failed; the end of the log:

$(tail -n 15 "$log" | sed 's/^/    /')

The whole log: $log"; }

# Python compiles a module when it is first imported, unless it must not write; pip would compile all, one by one.
compile=--no-compile
[[ -z "${PYTHONDONTWRITEBYTECODE:-}" ]] || compile=--compile

pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input "$compile" --progress-bar off "$@"
}

pin_of() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$root/requirements/tested.txt"; }

has_nvidia_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# Wait at most five seconds: a firewall may drop the connection.
reaches_cpu_index() {
    "$python" -c "import urllib.request as u; u.urlopen('$cpu_index/torch/', timeout=5).read(1)" >/dev/null 2>&1
}

keeps_torch() {
    "$python" - <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    major, minor = version('torch').split('.')[:2]
except PackageNotFoundError:
    sys.exit(1)
sys.exit((int(major), int(minor)) < (2, 4))
PYTHON
}

install_torch() {
    local pin
    pin="$(pin_of torch)"
    if keeps_torch; then
        say "  keeping the installed torch"
    elif [[ "$(uname -s)" != Linux ]] || has_nvidia_gpu; then
        must "torch $pin" pip_install --only-binary :all: "torch==$pin"
    # The package index of this machine may have the CPU build; if not, pip fails at once.
    elif on_failure='not in the package index of this machine' step "torch $pin, CPU build" pip_install --only-binary :all: "torch==$pin+cpu"; then
        :
    elif reaches_cpu_index; then
        must "torch $pin, CPU build of pytorch.org" \
            pip_install --only-binary :all: "torch==$pin+cpu" --extra-index-url "$cpu_index"
    else
        say "  the CPU build of torch cannot be reached: installing the default build, which may be several GB"
        must "torch $pin" pip_install --only-binary :all: "torch==$pin"
    fi
}

# onedl-mmcv and onedl-mmdetection come as source. mmcv's setup.py compiles its ops whenever it can import torch: hide
# torch from the build, and skip pip's cache, which may hold a wheel that was compiled for another torch.
install_sources() {
    env -u PIP_NO_BUILD_ISOLATION -u PYTHONPATH "$python" -m pip install --disable-pip-version-check --no-input \
        "$compile" --progress-bar off --no-cache-dir --no-deps \
        "onedl-mmcv==$(pin_of onedl-mmcv)" "onedl-mmdetection==$(pin_of onedl-mmdetection)"
}

install_the_rest() {
    local pins
    mapfile -t pins < <(grep -hvE '^(torch==|#|$)' "${requirements[@]}")
    pip_install --only-binary :all: "${pins[@]}"
}

# Print the last line of the error of `import cv2`, nothing on success.
cv2_error() { { "$python" -c 'import cv2' 2>&1 >/dev/null || true; } | tail -n 1; }

# The stack brings opencv-python and opencv-python-headless, which share one folder: the last one installed is used.
# Only opencv-python needs GUI libraries; where one of them is missing, opencv-python-headless is reinstalled on top.
check_opencv() {
    local error library package
    error="$(cv2_error)"
    if [[ "$error" == *.so* ]]; then
        local headless
        headless="$("$python" -c 'from importlib.metadata import version; print(version("opencv-python-headless"))')"
        must 'OpenCV without GUI' pip_install --only-binary :all: --no-deps --force-reinstall \
            "opencv-python-headless==$headless"
        error="$(cv2_error)"
    fi
    [[ -n "$error" ]] || return 0
    library="$(grep -oE 'lib[A-Za-z0-9_+-]+([.-][0-9.]+)?\.so[.0-9]*' <<<"$error" | head -n 1 || true)"
    case "$library" in
        libGL.so*) package='libgl1 (Debian, Ubuntu) or mesa-libGL (Fedora)' ;;
        libgthread* | libglib*) package='libglib2.0-0 (Debian, Ubuntu) or glib2 (Fedora)' ;;
        libSM*) package='libsm6 (Debian, Ubuntu) or libSM (Fedora)' ;;
        libXext*) package='libxext6 (Debian, Ubuntu) or libXext (Fedora)' ;;
        libXrender*) package='libxrender1 (Debian, Ubuntu) or libXrender (Fedora)' ;;
        libX11* | libxcb*) package='libx11-6 and libxcb1 (Debian, Ubuntu) or libX11 and libxcb (Fedora)' ;;
        libstdc++*) package='libstdc++6 (Debian, Ubuntu) or libstdc++ (Fedora)' ;;
        *) package='' ;;
    esac
    [[ -n "$package" ]] || die "OpenCV does not start: $error"
    die "OpenCV needs the system library $library, which comes with the package $package.
  Debian, Ubuntu:  sudo apt install ${package%% (*}"
}

choose_environment
{ read -r digest && read -r state && read -r prefix; } < <(environment_state)
stamp="$prefix/.mmyolo_ext-setup$([[ ${#requirements[@]} == 1 ]] || echo -test)"
log="$prefix/mmyolo_ext-setup.log"

if [[ "$state" != whole || ! -f "$stamp" || "$(<"$stamp")" != "$digest" ]]; then
    say "  setting up $prefix ($("$python" --version)), log: $log"
    rm -f "$stamp"
    : >"$log" 2>/dev/null || die "cannot write to $prefix: activate an environment of your own, or none"
    refuse_mixed_packages
    install_torch
    must 'mmcv and mmdetection, pure Python' install_sources
    must 'mmengine, OpenCV and the rest' install_the_rest
    must 'mmyolo_ext itself' pip_install --no-deps -e "$root"
    check_opencv
    must 'first start' "$python" -c 'import mmyolo_ext, mmdet.models'
    printf '%s' "$digest" >"$stamp"
fi
printf '%s\n' "$python"
