# shellcheck shell=bash
# A TPU VM of Google Cloud: `gcloud compute tpus`. What there is to remember is
# the resource itself and its label; nothing is kept on this machine.

TPUS=(gcloud compute tpus)
PYTHON=td_flax/.venv/bin/python # on the workers, from the home folder

target_check() {
  [[ -n $ZONE ]] ||
    die 2 '--zone: missing; for example --zone=us-east5-b (or CLOUDSDK_COMPUTE_ZONE)'
  [[ -n $DRY_RUN ]] || command -v gcloud >/dev/null ||
    die 1 'gcloud: not found; see https://cloud.google.com/sdk/docs/install'
}

target_check_training() {
  local argument workdir=''
  for argument in "${TRAINING[@]}"; do
    if [[ $argument == --workdir=* ]]; then workdir=${argument#*=}; fi
  done
  [[ $workdir == gs://* ]] ||
    die 2 "--workdir=$workdir: must be gs://BUCKET/PATH; the disks go with the slice"
}

# Prints `STATE,LABEL,WORKERS` of the TPU VM, or nothing where there is none.
describe() { # tpu-vm|queued-resources
  local fields='state,labels.td_flax,networkEndpoints.len()' error
  if [[ $1 == queued-resources ]]; then
    fields='state.state,tpu.nodeSpec[0].node.labels.td_flax'
  fi
  set -- "${TPUS[@]}" "$1" describe "$NAME" --zone="$ZONE" \
    --format="csv[no-heading]($fields)"
  if [[ -n $DRY_RUN ]]; then
    shown "$@" >&3
    echo "READY,$NAME,1"
  # What it prints goes on; what else it says, warnings too, is no answer.
  elif ! { error=$("$@" 2>&1 >&4); } 4>&1 &&
    [[ $error != *NOT_FOUND* && $error != *'not found'* ]]; then
    die 1 "gcloud cannot describe $NAME: $(summary "$error")"
  fi
}

# The last thing that gcloud said, on one line.
summary() { printf '%s\n' "$1" | grep -v '^$' | tail -n 3 | tr '\n' ' '; }

# Refuses what was not made by these scripts.
check_label() { # `STATE,LABEL...`
  local label=${1#*,}
  [[ ${label%%,*} == "$NAME" ]] ||
    die 1 "$NAME: has no label td_flax=$NAME, so these scripts did not create it; left alone"
}

# What describe says of the TPU VM, if these scripts made it.
target_found() {
  local found
  found=$(describe tpu-vm) || exit # as `|| CODE` of a caller turns set -e off
  [[ -z $found ]] || check_label "$found"
  printf '%s\n' "$found"
}

# Returns where the slice is usable.
require_ready() {
  local found
  found=$(target_found) || exit
  [[ -n $found ]] || die 75 "$NAME: there is no such TPU VM in $ZONE"
  [[ ${found%%,*} == READY ]] ||
    die 75 "$NAME: is ${found%%,*}, not READY (preempted slices must be created again)"
}

target_create() {
  local found flags
  [[ -n $ACCELERATOR ]] || die 2 '--accelerator: missing; for example v5litepod-8 or v6e-8'
  if [[ -z $VERSION ]]; then
    case $ACCELERATOR in
      v6e-*) VERSION=v2-alpha-tpuv6e ;;
      v5p-*) VERSION=v2-alpha-tpuv5 ;;
      v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
      v4-* | v3-* | v2-*) VERSION=tpu-ubuntu2204-base ;;
      *) die 2 "--accelerator=$ACCELERATOR: not one of v2-N, v3-N, v4-N, v5litepod-N, v5p-N, v6e-N; give --version too" ;;
    esac
  fi
  if [[ -z $DRY_RUN ]]; then
    if [[ -n $QUEUED ]]; then
      found=$(describe queued-resources)
      if [[ -n $found ]]; then # in the queue since an earlier time
        check_label "$found"
        wait_for_queue
      fi
    fi
    found=$(target_found)
    if [[ -n $found ]]; then
      [[ ${found%%,*} == READY ]] ||
        die 75 "$NAME: exists and is ${found%%,*}; delete it first"
      say "$NAME: is there already"
      return
    fi
  fi
  flags=(--zone="$ZONE" --accelerator-type="$ACCELERATOR" --labels="td_flax=$NAME")
  if [[ -n $SPOT ]]; then flags+=(--spot); fi
  if [[ -n $QUEUED ]]; then
    create queued-resources create "$NAME" --node-id="$NAME" \
      --runtime-version="$VERSION" "${flags[@]}"
    wait_for_queue
  else
    create tpu-vm create "$NAME" --version="$VERSION" "${flags[@]}"
  fi
  [[ -n $DRY_RUN ]] || say "$NAME: is there, with the label td_flax=$NAME; it costs money until delete.sh"
}

create() {
  local output
  if [[ -n $DRY_RUN ]]; then
    call "${TPUS[@]}" "$@"
    return
  fi
  say "$(shown "${TPUS[@]}" "$@")"
  if output=$("${TPUS[@]}" "$@" 2>&1); then return; fi
  # Both are RESOURCE_EXHAUSTED; only one passes by itself.
  case $output in
    *[Qq]uota*) die 1 "no quota for $ACCELERATOR in $ZONE (spot has a quota of its own): $(summary "$output")" ;;
    *[Cc]apacity* | *RESOURCE_EXHAUSTED* | *stockout*)
      die 75 "no capacity for $ACCELERATOR in $ZONE now; try again, another zone, or --queued: $(summary "$output")"
      ;;
  esac
  die 1 "gcloud cannot create $NAME: $(summary "$output")"
}

wait_for_queue() {
  local found minute
  for ((minute = 0; minute < WAIT; minute++)); do
    found=$(describe queued-resources) || found=UNKNOWN # offline, perhaps
    case ${found%%,*} in
      ACTIVE | READY) return ;;
      '') die 75 "$NAME: the request is gone" ;;
      FAILED | SUSPENDING | SUSPENDED) die 75 "$NAME: the request is ${found%%,*}; delete it and try again" ;;
    esac
    say "$NAME: the request is ${found%%,*}"
    sleep 60
  done
  die 75 "$NAME: still ${found%%,*} after $WAIT minutes (--wait); the request stays in the queue until delete.sh"
}

# A command on workers; tried again where the connection drops: all are idempotent.
# Then ssh, and so gcloud, answers 255; of a slice that is gone gcloud answers 1.
remote() { # WHICH COMMAND
  local attempt code
  for attempt in 1 2 3; do
    code=0
    call "${TPUS[@]}" tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" \
      --ssh-flag=-oConnectTimeout=30 --ssh-flag=-oServerAliveInterval=15 \
      --command="$2" || code=$?
    if ((code == 0)); then return; fi
    require_ready
    if ((code != 255)); then return "$code"; fi
    say "$NAME: the ssh connection dropped (attempt $attempt of 3)"
    sleep 10
  done
  die 75 "$NAME: a worker cannot be reached by ssh; status.sh says more"
}

target_setup() {
  local tree output expected ready git
  require_ready
  ARCHIVE=${TMPDIR:-/tmp}/td_flax-$NAME.tar.gz
  trap 'call rm -f "$ARCHIVE" "$ARCHIVE.index"' EXIT
  # All that git does not ignore, committed or not; the user's index stays as it is.
  git=(env GIT_INDEX_FILE="$ARCHIVE.index" git -C "$ROOT")
  call "${git[@]}" read-tree HEAD
  call "${git[@]}" add --all
  tree=$(call "${git[@]}" write-tree)
  call git -C "$ROOT" archive --format=tar.gz --output="$ARCHIVE" "${tree:-TREE}"
  call "${TPUS[@]}" tpu-vm scp "$ARCHIVE" "$NAME:td_flax.tar.gz" --zone="$ZONE" --worker=all || {
    require_ready
    die 75 "$NAME: the package could not be copied to all workers"
  }
  output=$(remote all 'mkdir -p td_flax && tar -xzf td_flax.tar.gz -C td_flax && bash td_flax/launch/worker_setup.sh') || {
    (($? != 75)) || exit 75 # said already
    die 1 "$NAME: setup failed: $(summary "$output")"
  }
  if [[ -n $DRY_RUN ]]; then return; fi
  printf '%s\n' "$output"
  expected=$(describe tpu-vm)
  expected=${expected##*,}
  ready=$(grep -c '^ready:' <<<"$output" || true)
  ((ready == expected)) ||
    die 75 "$NAME: $ready of $expected workers are ready; the others never came up"
}

target_worker() { # WHICH VERB NAME [ARGUMENTS...]
  local which=$1
  shift
  remote "$which" "$PYTHON td_flax/launch/worker.py $(shown "$@")"
}

target_run() {
  require_ready
  worker all start --port="$PORT" -- "${TRAINING[@]}"
}

target_state() {
  local found
  found=$(describe tpu-vm)
  if [[ -z $found ]]; then
    found=$(describe queued-resources)
    [[ -n $found ]] || die 75 "$NAME: there is nothing of this name in $ZONE"
    die 75 "$NAME: queued, ${found%%,*}"
  fi
  say "$NAME: ${found%%,*}"
  [[ ${found%%,*} == READY ]] || exit 75
}

# Whether there is something to delete before create.sh can make it again; a
# request that waits would lose its place in the queue, what is READY its training.
target_is_lost() {
  local request found
  request=$(describe queued-resources) || return
  case ${request%%,*} in
    FAILED | SUSPENDING | SUSPENDED) return ;;
    '' | ACTIVE) ;;
    *) return 1 ;;
  esac
  found=$(describe tpu-vm) || return
  [[ -n $request$found && $found != READY,* ]]
}

target_delete() {
  local found kind=queued-resources force=--force
  found=$(describe $kind)
  if [[ -z $found || (-n $DRY_RUN && -z $QUEUED) ]]; then
    kind=tpu-vm force=''
    found=$(describe $kind)
  fi
  [[ -n $found ]] || die 75 "$NAME: there is nothing of this name in $ZONE"
  check_label "$found"
  confirm "deletes $kind $NAME in $ZONE (${found%%,*}) and its disks"
  call "${TPUS[@]}" $kind delete "$NAME" --zone="$ZONE" --quiet ${force:+$force}
}
