#!/usr/bin/env bash
# Runs on each worker, in its home folder: Python 3.11, the package with the
# extras `tpu`, `gcs` and `hf` (for WordPiece), and a look at the chips. Again at
# will; exit code 75 where a tool could not be had, which passes.
set -euo pipefail
cd "$(dirname "$0")/.."

fetch() {
  "$@" || {
    echo "error: $HOSTNAME: failed, try again: $*" >&2
    exit 75
  }
}

# A machine that just started updates itself, and holds the lock meanwhile.
command -v tmux >/dev/null ||
  fetch sudo apt-get -o DPkg::Lock::Timeout=300 install -y -q tmux
# uv brings a Python of the right version, whatever the image has.
uv=$(command -v uv || echo "$HOME/.local/bin/uv")
[[ -x $uv ]] || fetch python3 -m pip install --quiet --user uv
[[ -x .venv/bin/python ]] || fetch "$uv" venv --quiet --python 3.11 .venv
"$uv" pip install --quiet --python .venv/bin/python -e '.[tpu,gcs,hf]'
.venv/bin/python launch/worker.py check
