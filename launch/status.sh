#!/usr/bin/env bash
# What the slice and its workers do; exit code 75 where it is gone:
#   status.sh NAME --zone=ZONE [--target=local]
source "$(dirname "$0")/_common.sh"
parse 'zone' "$@"
target_state
# A connection that drops is not a slice that is gone.
(worker all status) || die 1 "$NAME: not all workers answer"
