#!/usr/bin/env bash
# Every check of the project: set-up, lint, types, import contracts and tests, fast ones first.
#   bash tests/run.sh [pytest arguments]           about 25 minutes
#   bash tests/run.sh --fast [pytest arguments]    lint and the tests without Ray, engines and slow models: under two minutes
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/setup.sh cpu,gym,hub,dev

export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false RAY_DEDUP_LOGS=0
ruff check .
ruff format --check --quiet .
if [ "${1:-}" = --fast ]; then
    shift
    exec pytest -m "not gpu and not ray and not engine and not slow" "$@"
fi
mypy
lint-imports --no-cache
# Two programs of the system: a browser to open the report in, and a sandbox to run programs in.
missing=()
command -v chromium chromium-browser google-chrome >/dev/null || missing+=(chromium)
command -v bwrap >/dev/null || missing+=(bubblewrap)
if [ ${#missing[@]} -gt 0 ]; then
    { [ "$(id -u)" = 0 ] && apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
        echo "tests that need ${missing[*]} are skipped: install them to run those tests"
fi
if [ $# -gt 0 ]; then
    exec pytest -m "not gpu" "$@"
fi
# Tests with Ray wait a lot for processes, so the others run beside them; what those print comes last.
with_ray="ray or engine"
others=$(mktemp)
trap 'rm -f "$others"' EXIT
pytest -m "not gpu and not ($with_ray)" >"$others" 2>&1 &
status=0
pytest -m "not gpu and ($with_ray)" || status=$?
wait $! || status=$?
cat "$others"
exit $status
