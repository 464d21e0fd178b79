#!/usr/bin/env bash
# Deletes a slice that create.sh made, once its name is typed or with --yes:
#   delete.sh NAME --zone=ZONE [--yes] [--dry-run] [--target=local]
source "$(dirname "$0")/_common.sh"
parse 'zone yes queued' "$@"
target_delete
