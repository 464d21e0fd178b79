#!/usr/bin/env bash
# Creates a slice: create.sh NAME --zone=ZONE --accelerator=TYPE
#   [--version=RUNTIME] [--spot] [--queued [--wait=MINUTES]] [--dry-run]
# or, on this machine: create.sh NAME --target=local [--processes=2] [--devices=4]
source "$(dirname "$0")/_common.sh"
parse 'zone accelerator version spot queued wait processes devices' "$@"
target_create
