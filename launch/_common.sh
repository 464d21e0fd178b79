# shellcheck shell=bash disable=SC2034
# What every verb shares: its flags, and saying, doing or only printing things.
# It runs on the bash 3.2 of a Mac.
#
# Exit codes: 0 done, 1 it cannot go on, 2 a mistake on the command line,
# 75 try again (preempted, no capacity, a worker that cannot be reached).
set -euo pipefail
exec 3>&1 # where --dry-run prints, also from inside $(...)

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$LAUNCH")
VERB=$(basename "$0" .sh)

say() { printf '%s\n' "$*" >&2; }
die() { # CODE MESSAGE
  say "error: $2"
  exit "$1"
}

# The command line as one would type it.
shown() {
  local word line='' quote="'\\''"
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]]; then
      line+=" $word"
    else
      line+=" '${word//\'/$quote}'"
    fi
  done
  printf '%s\n' "${line# }"
}

# Does it, or prints it with --dry-run.
call() {
  if [[ -n $DRY_RUN ]]; then shown "$@" >&3; else "$@"; fi
}

# Sets NAME, the flags as upper-case variables, and TRAINING: what follows --.
parse() { # FLAGS-OF-THIS-VERB "$@"
  local known=" target dry-run $1 " argument flag value
  shift
  NAME='' TARGET=gcp DRY_RUN='' YES='' ZONE=${CLOUDSDK_COMPUTE_ZONE:-}
  ACCELERATOR='' VERSION='' SPOT='' QUEUED='' WAIT=60
  PROCESSES=2 DEVICES=4 PORT=8476 WORKER=0 FOLLOW='' TRAINING=()
  while (($#)); do
    argument=$1
    shift
    if [[ $argument == -- ]]; then
      TRAINING=("$@")
      break
    elif [[ $argument != -* ]]; then
      [[ -z $NAME ]] || die 2 "$argument: unexpected; the name is $NAME already"
      NAME=$argument
      continue
    fi
    flag=${argument%%=*} value=''
    flag=${flag#--}
    if [[ $argument == *=* ]]; then value=${argument#*=}; fi
    # shellcheck disable=SC2086 # a word each
    [[ $known == *" $flag "* ]] ||
      die 2 "--$flag: $VERB has no such flag; it has$(printf ' --%s' $known)"
    case $flag in
      dry-run | yes | spot | queued | follow)
        [[ $argument != *=* ]] || die 2 "$argument: --$flag takes no value"
        value=yes
        ;;
      *) [[ -n $value ]] || die 2 "--$flag: needs a value, as --$flag=VALUE" ;;
    esac
    case $flag in
      wait | processes | devices | port)
        [[ $value =~ ^[1-9][0-9]{0,4}$ ]] ||
          die 2 "--$flag=$value: must be a whole number from 1"
        ;;
    esac
    case $flag in
      target) TARGET=$value ;; dry-run) DRY_RUN=$value ;; yes) YES=$value ;;
      zone) ZONE=$value ;; accelerator) ACCELERATOR=$value ;;
      version) VERSION=$value ;; spot) SPOT=$value ;; queued) QUEUED=$value ;;
      wait) WAIT=$value ;; processes) PROCESSES=$value ;;
      devices) DEVICES=$value ;; port) PORT=$value ;; worker) WORKER=$value ;;
      follow) FOLLOW=$value ;;
    esac
  done
  [[ -n $NAME ]] || die 2 "NAME: missing; usage: $VERB.sh NAME [FLAGS]"
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die 2 "$NAME: not a name; lower-case letters, digits and dashes, up to 40"
  [[ $WORKER =~ ^([0-9]+|all)$ ]] ||
    die 2 "--worker=$WORKER: must be a number or all"
  case $TARGET in
    gcp | local) ;;
    *) die 2 "--target=$TARGET: must be gcp or local" ;;
  esac
  # shellcheck source=/dev/null
  source "$LAUNCH/_$TARGET.sh"
  target_check
  if [[ $VERB != run && $VERB != up ]]; then return; fi
  ((${#TRAINING[@]})) ||
    die 2 'nothing to train; after --, the arguments of td_flax.main: -- --config=FILE --workdir=DIR'
  target_check_training
}

# Goes on only if --yes was given or the name is typed.
confirm() { # WHAT HAPPENS
  local typed=''
  if [[ -n $YES || -n $DRY_RUN ]]; then return; fi
  [[ -t 0 ]] || die 2 "$1: type the name on a terminal, or give --yes"
  read -r -p "$1. Type the name to go on: " typed
  [[ $typed == "$NAME" ]] || die 1 "'$typed' is not '$NAME'; nothing was done"
}

# Runs worker.py on workers (a number or all) of the slice.
worker() { # WHICH VERB [ARGUMENTS...]
  local which=$1 verb=$2
  shift 2
  target_worker "$which" "$verb" "$NAME" "$@"
}
