#!/usr/bin/env bash
# Every check of the project: set up, then lint, types, import contracts and tests, fast ones first.
#   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/setup.sh cpu,gym,hub,dev

export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false RAY_DEDUP_LOGS=0
if ! command -v chromium chromium-browser google-chrome >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get install -y --no-install-recommends chromium >/dev/null || echo "no chromium: the report is not opened in a browser"
fi
ruff check .
ruff format --check --quiet .
mypy
lint-imports --no-cache
exec pytest -m "not gpu" "$@"
