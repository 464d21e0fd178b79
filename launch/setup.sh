#!/usr/bin/env bash
# Installs Python and the package on all workers and checks that JAX sees the
# chips; again at will: setup.sh NAME --zone=ZONE [--dry-run] [--target=local]
source "$(dirname "$0")/_common.sh"
parse 'zone' "$@"
target_setup
