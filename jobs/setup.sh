# Sourced by jobs/quickstart.sh and tests/run.sh: makes .venv with this package and the extras in $1, once.
# Versions are those of jobs/constraints.txt. A second call finds pyproject.toml and the constraints unchanged and returns.
set -euo pipefail

extras=$1
stamp=.venv/reasonray-$extras.stamp
export PATH="$PWD/.venv/bin:$PATH"
unset VIRTUAL_ENV PYTHONPATH
unset PYTHONDONTWRITEBYTECODE  # or each of Ray's many processes compiles all that it imports: 2 s for ray instead of 0.6

if ! cat pyproject.toml jobs/constraints.txt | cmp -s - "$stamp" 2>/dev/null; then
  began=$SECONDS
  if [ ! -x .venv/bin/python ]; then
    python=$(command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; $python is older" >&2; exit 2; }
    echo "setup     making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2>&1 | grep -v '^WARNING' || true
  # A folder of wheels that pip is configured with may hold the CPU build of torch; uv does not look there by itself.
  wheels=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)
  wheels=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$wheels}}
  backend=()
  if [ -n "$wheels" ]; then export UV_FIND_LINKS="$wheels"; else backend=(--torch-backend=cpu); fi
  echo "setup     installing reasonray[$extras], about a minute"
  .venv/bin/uv pip install --quiet --python .venv/bin/python "${backend[@]}" -c jobs/constraints.txt -e ".[$extras]"
  cat pyproject.toml jobs/constraints.txt > "$stamp"
  echo "setup     done in $((SECONDS - began)) s"
fi
