#!/usr/bin/env bash
# Stops the training: it saves, and run.sh resumes it. The slice stays:
#   stop.sh NAME --zone=ZONE [--target=local]
source "$(dirname "$0")/_common.sh"
parse 'zone' "$@"
worker all stop
