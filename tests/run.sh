#!/usr/bin/env bash
# Every check of the project: set up, then lint, types, import contracts and tests, fast ones first.
#   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/setup.sh cpu,gym,hub,dev

export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false RAY_DEDUP_LOGS=0
# What the checks need of the system: a browser to open the report in, a sandbox to run programs in.
missing=()
command -v chromium chromium-browser google-chrome >/dev/null || missing+=(chromium)
command -v bwrap >/dev/null || missing+=(bubblewrap)
if [ ${#missing[@]} -gt 0 ]; then
    { [ "$(id -u)" = 0 ] && apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
        echo "tests that need ${missing[*]} are skipped: install what is missing to run them"
fi
ruff check .
ruff format --check --quiet .
mypy
lint-imports --no-cache
exec pytest -m "not gpu" "$@"
