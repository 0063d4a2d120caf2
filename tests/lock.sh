#!/usr/bin/env bash
# Choose the newest versions that pyproject.toml allows, for every platform and Python, and write them down:
#   bash tests/lock.sh
# requirements.txt is what a Space installs, requirements-dev.txt what the tests do; both name the same versions.
# What torch brings along for GPUs is left out, since torch itself asks for exact versions, and builds without
# a GPU for none. Needs uv. Commit what it writes after tests/run.sh has passed with it.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {  # name of the file, what it is for, options
    local file=$1 what=$2
    shift 2
    local locked
    locked=$(uv pip compile pyproject.toml --universal --python-version 3.10 --upgrade --quiet --no-annotate \
        --no-header --no-emit-index-url "$@" | grep -Ev '^(nvidia-|cuda-|triton=)')
    printf '# %s Written by tests/lock.sh.\n%s\n' "$what" "$locked" > "$file"
}
lock requirements-dev.txt "What the tests need. Run pip in this folder." --extra dev
lock requirements.txt "What python app.py needs; Hugging Face Spaces installs this file." --extra page \
    --constraint requirements-dev.txt
echo "-e ." >> requirements-dev.txt
