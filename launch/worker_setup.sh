#!/usr/bin/env bash
# Runs on each worker, in its home folder: Python 3.11, the package with the
# extras `tpu` and `gcs`, and a look at the chips. Again at will.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v tmux >/dev/null || sudo apt-get install -y -q tmux
# uv brings a Python of the right version, whatever the image has.
uv=$(command -v uv || echo "$HOME/.local/bin/uv")
[[ -x $uv ]] || python3 -m pip install --quiet --user uv
[[ -x .venv/bin/python ]] || "$uv" venv --quiet --python 3.11 .venv
"$uv" pip install --quiet --python .venv/bin/python -e '.[tpu,gcs]'
.venv/bin/python launch/worker.py check
