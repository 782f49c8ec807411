#!/bin/sh
# Installs Detectron2 into the environment of a Python that has torch and torchvision:
#     sh requirements/install_detectron2.sh PYTHON [upstream]
# Without the second word: v0.6 from the package registry, hash-checked, without a compiler, in seconds. With it: the current
# sources from GitHub, compiled, which takes minutes and, on a GPU machine, the CUDA toolkit.
set -eu
python=$1
here=$(cd "$(dirname "$0")" && pwd)
if ! "$python" -c 'import torch, torchvision' 2>/dev/null; then
    echo "$python has no torch and torchvision: install the project first" >&2
    exit 1
fi
quiet="--quiet --disable-pip-version-check"
"$python" -m pip install $quiet -r "$here/detectron2-dependencies.txt"
if [ "${2:-}" = upstream ]; then
    "$python" -m pip install $quiet --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'
else
    # pip 26.3 refuses the archive for an optional dependency that it names by address. An older pip beside it does not.
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    if "$python" -c 'import pip, sys; sys.exit([int(part) for part in pip.__version__.split(".")[:2]] < [26, 3])'; then
        "$python" -m pip install $quiet --target "$scratch" 'pip<26.3'
    fi
    # A new virtual environment of Python 3.11 has a setuptools that cannot build wheels by itself, of 3.12 and later none.
    "$python" -m pip install $quiet 'setuptools>=77'
    # setup.py imports torch: no isolation. A wheel that was once built without the settings must not be taken from the cache.
    PYTHONPATH=$scratch DIST_EXTRA_CONFIG=$here/detectron2-build.cfg "$python" -m pip install $quiet \
        --use-pep517 --no-cache-dir --no-build-isolation --no-deps -r "$here/detectron2.txt"
fi
cd "$here/.." && "$python" -c 'from evals.detection import compat; compat.require(); print(compat.describe())'
