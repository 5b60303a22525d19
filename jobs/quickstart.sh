#!/usr/bin/env bash
# From a clone to a report: set up, start a local Ray cluster if none runs, submit jobs/distill.py, print where the report is.
#   bash jobs/quickstart.sh [key=value …]
set -euo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
source jobs/setup.sh cpu

export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} RAY_USAGE_STATS_ENABLED=0 RAY_process_group_cleanup_enabled=1
if [ "$RAY_AUTH_MODE" = token ]; then ray get-auth-token --generate >/dev/null 2>&1; fi

started=
if ! ray job list >/dev/null 2>&1; then
  echo "ray       starting a local cluster"
  ray start --head --num-cpus=4 --disable-usage-stats --log-style=record >/dev/null 2>&1 || {
    echo "error: ray start failed; run 'ray start --head' to see why, or 'ray stop' if an old cluster is in the way" >&2
    exit 1
  }
  started=yes
fi
stop() { if [ -n "$started" ]; then ray stop >/dev/null 2>&1 || true; fi; }
trap stop EXIT

reasonray submit jobs/distill.py jobs/configs/quickstart.toml "$@"
echo "done      in $((SECONDS - began)) s; open runs/quickstart/report.html"
