# shellcheck shell=bash
# Several processes on this machine, each with a few CPU devices: the same verbs
# and the same worker.py, so that the path of many hosts is exercised anywhere.
# A slice is a folder with a file that says so.

HOME_OF_SLICES=${TD_FLAX_LAUNCH_HOME:-$HOME/.td_flax}

target_check() {
  SLICE=$HOME_OF_SLICES/$NAME
  PYTHON=${PYTHON:-python3}
}

target_check_training() { :; }

require_slice() {
  if [[ -n $DRY_RUN && ! -f $SLICE/slice ]]; then return; fi
  [[ -d $SLICE ]] || die 75 "$NAME: there is no $SLICE; create.sh makes it"
  [[ -f $SLICE/slice ]] || die 1 "$SLICE: has no file \`slice\`, so these scripts did not create it; left alone"
  read -r PROCESSES DEVICES <"$SLICE/slice"
}

target_create() {
  if [[ -e $SLICE && -z $DRY_RUN ]]; then
    require_slice
    say "$NAME: is there already, $PROCESSES processes of $DEVICES devices"
    return
  fi
  call mkdir -p "$SLICE"
  if [[ -z $DRY_RUN ]]; then echo "$PROCESSES $DEVICES" >"$SLICE/slice"; fi
  say "$NAME: $PROCESSES processes of $DEVICES devices, in $SLICE"
}

target_setup() {
  require_slice
  [[ -n $DRY_RUN ]] || command -v tmux >/dev/null || die 1 'tmux: not found; install it'
  find_worker
  call "${WORKER_PY[@]}" check || die 1 "$PYTHON: cannot run td_flax; set PYTHON, or pip install -e $ROOT"
}

find_worker() { # sets WORKER_PY
  WORKER_PY=(env JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$DEVICES"
    "$PYTHON" "$LAUNCH/worker.py")
}

target_worker() { # WHICH VERB NAME [ARGUMENTS...]
  local which=$1 verb=$2 index code=0 children=() command
  shift 3
  require_slice
  find_worker
  for ((index = 0; index < PROCESSES; index++)); do
    if [[ $which != all && $which != "$index" ]]; then continue; fi
    # At once, like ssh to all workers; in order where they are only printed.
    command=("${WORKER_PY[@]}" "$verb" "$NAME" --home="$HOME_OF_SLICES"
      --index="$index" --count="$PROCESSES" "$@")
    if [[ -n $DRY_RUN ]]; then
      call "${command[@]}"
    else
      "${command[@]}" &
      children+=($!)
    fi
  done
  for index in ${children[@]+"${children[@]}"}; do wait "$index" || code=$?; done
  return "$code"
}

target_run() { worker all start --port="$PORT" -- "${TRAINING[@]}"; }

target_state() {
  require_slice
  say "$NAME: $PROCESSES processes of $DEVICES devices, in $SLICE"
}

# What up.sh asks for, as of a TPU VM.
target_found() { if [[ -f $SLICE/slice ]]; then echo READY,; fi; }
target_is_lost() { return 1; } # a folder is not

target_delete() {
  require_slice
  worker all idle >/dev/null || die 1 "$NAME: is running; stop.sh first"
  confirm "deletes $SLICE with the logs (not the workdir)"
  call rm -r "$SLICE"
}
