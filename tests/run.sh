#!/usr/bin/env bash
# Everything the tests need, then lint, format check and tests, from a fresh clone on:
#   bash tests/run.sh [--newest] [arguments for pytest]
# With --newest, in an environment of its own, with the newest packages that pyproject.toml allows instead of the
# versions of requirements-dev.txt: what fails there will fail for users, and wants a bound or a change.
# Needs Python 3.10 or newer. Environment:
#   PYTHON            the Python that makes .venv (default python3)
#   DYSTYLE_CHROMIUM  the browser for the page's tests (default: found or installed below)
#   DYSTYLE_SCREENSHOTS  folder for what the page looked like at the end of each of them (default build/screenshots)
set -euo pipefail
cd "$(dirname "$0")/.."

apt_install() {
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}
root_with_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

venv=.venv newest=""
if [ "${1:-}" = --newest ]; then
    venv=.venv-newest newest=yes
    shift
fi

# 1. The virtual environment; what pip installed is remembered by the files that asked for it.
python=$venv/bin/python
if ! [ -x "$python" ] && ! "${PYTHON:-python3}" -m venv "$venv"; then
    rm -rf "$venv"  # half made: Debian and Ubuntu keep venv in a package of its own
    root_with_apt || { echo "Python's venv module is missing: install python3-venv." >&2; exit 1; }
    apt_install python3-venv
    "${PYTHON:-python3}" -m venv "$venv"
fi
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip
wanted=$(cat requirements-dev.txt pyproject.toml)
if [ -n "$newest" ]; then
    "$python" -m pip install --upgrade --upgrade-strategy eager -e ".[dev]"
elif [ "$wanted" != "$(cat "$venv/installed.txt" 2>/dev/null)" ]; then
    "$python" -m pip install -r requirements-dev.txt
    printf '%s\n' "$wanted" > "$venv/installed.txt"
fi

# 2. A Chromium. A binary that cannot tell its version (such as Ubuntu's placeholder for the snap) does not count.
#    What the tests get as an empty DYSTYLE_CHROMIUM is the browser that Playwright keeps for itself.
find_chromium() {
    local candidate
    for candidate in chromium chromium-browser google-chrome google-chrome-stable \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        if candidate=$(command -v "$candidate") && "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}
if [ -z "${DYSTYLE_CHROMIUM:-}" ]; then
    DYSTYLE_CHROMIUM=$(find_chromium)
    if [ -z "$DYSTYLE_CHROMIUM" ] && root_with_apt && grep -qx 'ID=debian' /etc/os-release; then
        apt_install chromium
        DYSTYLE_CHROMIUM=$(find_chromium)
    fi
    if [ -z "$DYSTYLE_CHROMIUM" ]; then
        if root_with_apt; then
            "$python" -m playwright install --with-deps chromium
        else
            "$python" -m playwright install chromium
        fi
    fi
fi
export DYSTYLE_CHROMIUM DYSTYLE_SCREENSHOTS="${DYSTYLE_SCREENSHOTS:-build/screenshots}"

# 3. The checks.
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
.venv/bin/lint-imports
marks=""
"$python" -c "import torch; raise SystemExit(not torch.cuda.is_available())" || marks="not gpu"
"$python" -m pytest -m "$marks" "$@"
