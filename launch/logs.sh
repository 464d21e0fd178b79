#!/usr/bin/env bash
# The end of the log of a worker: logs.sh NAME --zone=ZONE [--worker=I|all] [--follow]
source "$(dirname "$0")/_common.sh"
parse 'zone worker follow' "$@"
worker "$WORKER" logs ${FOLLOW:+--follow}
