#!/usr/bin/env bash
# create + setup + run, then watches: a slice that is preempted, or new and three
# times not to be started, is deleted and made again, and the run resumes; at the
# end the slice goes. What runs already is only watched.
#   up.sh NAME --zone=ZONE --accelerator=TYPE --spot [--yes] -- --config=... --workdir=gs://...
source "$(dirname "$0")/_common.sh"
parse 'zone accelerator version spot queued wait processes devices port yes' "$@"

where=("$NAME" --target="$TARGET")
if [[ -n $ZONE ]]; then where+=(--zone="$ZONE"); fi
if [[ -n $DRY_RUN ]]; then where+=(--dry-run); fi
what=(--wait="$WAIT" --processes="$PROCESSES" --devices="$DEVICES")
if [[ -n $ACCELERATOR ]]; then what+=(--accelerator="$ACCELERATOR"); fi
if [[ -n $VERSION ]]; then what+=(--version="$VERSION"); fi
if [[ -n $SPOT ]]; then what+=(--spot); fi
if [[ -n $QUEUED ]]; then what+=(--queued); fi

if [[ $TARGET == gcp ]]; then
  confirm "deletes the slice $NAME when it is preempted and when the run is over"
fi

# Of each worker the state alone: a line ends with what its log says.
states() { sed -n 's/^worker [0-9]*: \([a-z]*\) for .*/\1/p' <<<"$1" | sort -u; }

# The starts that are left to a slice that was made here, -1 for any other: one
# that was found may train, out of reach, and is not deleted for that.
tries=-1

start() {
  local found=''
  if [[ -z $DRY_RUN ]]; then found=$(target_found) || return; fi
  if [[ $found != READY,* ]]; then
    tries=-1
    "$LAUNCH/create.sh" "${where[@]}" "${what[@]}" || return
    [[ $TARGET == local ]] || tries=3
  fi
  # Setup would change the code under a training.
  if [[ $found != READY,* || ! $(states "$(worker all status)") =~ running|waiting ]]; then
    "$LAUNCH/setup.sh" "${where[@]}" || return
  fi
  "$LAUNCH/run.sh" "${where[@]}" --port="$PORT" -- "${TRAINING[@]}" || return
  tries=-1
}

# Returns 0 once all workers are done, 1 where one failed, 75 where the slice is lost.
watch() {
  local lines code
  while true; do
    code=0
    lines=$("$LAUNCH/status.sh" "${where[@]}") || code=$?
    case $code in
      0)
        case $(states "$lines") in
          done) return 0 ;;
          *failed* | *stopped*)
            say "$lines"
            return 1
            ;;
          *lost* | *idle*) # a machine was restarted
            "$LAUNCH/run.sh" "${where[@]}" --port="$PORT" -- "${TRAINING[@]}" || true
            ;;
        esac
        ;;
      75) return 75 ;;
      *) ;; # said already; a laptop that is offline is no reason to delete anything
    esac
    sleep 60
  done
}

delay=30
while true; do
  code=0
  start || code=$?
  if [[ -n $DRY_RUN ]]; then break; fi
  if ((code == 0)); then
    delay=30
    watch || code=$?
  fi
  if ((code == 0)); then
    say "$NAME: the run is done"
    break
  fi
  tries=$((tries > 0 ? tries - 1 : tries))
  ((code == 75 || tries > 0)) || die "$code" "$NAME: gave up; the slice is as it was (delete.sh removes it)"
  say "$NAME: not started or lost; again in $delay seconds"
  sleep "$delay"
  delay=$((delay < 300 ? delay * 2 : 600))
  if ((tries == 0)) || target_is_lost; then "$LAUNCH/delete.sh" "${where[@]}" --yes || true; fi
done
if [[ $TARGET == local ]]; then exit; fi
for _ in 1 2 3; do
  code=0
  "$LAUNCH/delete.sh" "${where[@]}" --yes ${QUEUED:+--queued} || code=$?
  if ((code == 0 || code == 75)); then exit 0; fi # 75: gone
  sleep 60
done
die 1 "$NAME: STILL EXISTS AND COSTS MONEY; to delete it: $(shown "$LAUNCH/delete.sh" "${where[@]}" --yes)"
