#!/usr/bin/env bash
# Trains on all workers, in tmux, which restarts a training that dies. After a
# machine was restarted, again at will; a preempted slice comes back with up.sh:
#   run.sh NAME --zone=ZONE [--port=8476] [--dry-run] -- --config=FILE --workdir=gs://...
source "$(dirname "$0")/_common.sh"
parse 'zone port' "$@"
target_run
