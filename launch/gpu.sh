#!/usr/bin/env bash
# One box: all of its GPUs (or its CPU) in one process. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: launch/gpu.sh [--gpus=0,1,...] [--tries=N] [--dry-run] -- FLAGS...

Runs `python -m vimonet_jax.main FLAGS...` on this machine, and again when it
was stopped by SIGTERM after it had saved (status 143), as often as --tries says.
Who sends SIGTERM to this script stops both: the program saves, and that is all.

  --gpus=LIST  only these, as CUDA_VISIBLE_DEVICES has them (default: all)
  --tries=N    how often in all (default: 1)
  --dry-run    print the command and do nothing
HELP
}

die() {
  echo "$1" >&2
  exit 2
}

gpus='' tries=1 dry=''
while (($#)); do
  case $1 in
    --gpus=*) gpus=${1#*=} ;;
    --tries=*) tries=${1#*=} ;;
    --dry-run) dry=1 ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) die "Expected options of gpu.sh before --, found $1; see --help." ;;
  esac
  shift
done
(($#)) || die 'Expected flags of vimonet_jax.main after --, found none; see --help.'
[[ $tries =~ ^[1-9][0-9]*$ ]] ||
  die "Expected --tries to be a number from 1, found '$tries'."

command=(python -m vimonet_jax.main "$@")
[[ -z $gpus ]] || command=(env "CUDA_VISIBLE_DEVICES=$gpus" "${command[@]}")
if [[ $dry ]]; then
  printf '%q ' "${command[@]}" && echo
  exit
fi
cd "$(dirname "$0")/.."
((tries > 1)) || exec "${command[@]}"

program='' stopped=''
trap 'stopped=1; kill -TERM "$program" || true' TERM
for ((try = 1; ; try++)); do
  # What runs in the background does not hear of Ctrl-C unless asked to.
  (trap - INT && exec "${command[@]}") &
  program=$!
  status=0
  wait "$program" || status=$?
  if [[ $stopped ]]; then
    # The signal ended that wait; this one ends with the program.
    status=0
    wait "$program" || status=$?
    exit "$status"
  fi
  ((status == 143 && try < tries)) || exit "$status"
done
