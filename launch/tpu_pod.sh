#!/usr/bin/env bash
# A TPU pod slice of Google Cloud, asked for as a queued resource. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: launch/tpu_pod.sh ACTION --name=NAME --zone=ZONE [options] [-- FLAGS...]

  create    ask for the slice, if that was not done, and wait until it is there
  install   copy this folder to every worker and install it there, unless a
            program runs
  run       start `python -m vimonet_jax.main --distributed FLAGS...` on every
            worker and wait for it, or for one that runs there already
  train     all three; when the slice is preempted it is asked for again, and
            the run goes on from its last checkpoint
  logs      show what the first worker prints (--worker=all: every one)
  delete    give the slice back

  --name=NAME      of the queued resource and its node
  --zone=ZONE      e.g. us-west4-a
  --project=ID     (default: gcloud's)
  --type=TYPE      accelerator type, e.g. v5litepod-16 (to create)
  --runtime=NAME   TPU software, e.g. v2-alpha-tpuv5-lite (to create)
  --spot           a slice that may be preempted
  --mount=COMMAND  run on every worker before each run; --workdir has to be on
                   a file system that all workers see, e.g. with
                   'mountpoint -q /data || { sudo apt-get update &&
                   sudo apt-get -o DPkg::Lock::Timeout=300 install -y nfs-common
                   && sudo mkdir -p /data &&
                   sudo mount -t nfs ADDRESS:/vol /data; }'
  --worker=W       of logs: its number, or all (default: 0)
  --dry-run        print the commands and do nothing
HELP
}

die() {
  echo "$1" >&2
  exit 2
}

action=''
case ${1:-} in
  create | install | run | train | logs | delete) action=$1 && shift ;;
  --help) usage && exit ;;
  *) die "Expected create, install, run, train, logs or delete first, found '${1:-}'; see --help." ;;
esac
name='' zone='' type='' runtime='' mount='' worker=0 dry='' project=() spot=()
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=("$1") ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --spot) spot=(--spot) ;;
    --mount=*) mount=${1#*=} ;;
    --worker=*) worker=${1#*=} ;;
    --dry-run) dry=1 ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) die "Expected options of tpu_pod.sh before --, found $1; see --help." ;;
  esac
  shift
done
[[ $name && $zone ]] || die 'Expected --name and --zone, found one missing; see --help.'
case $action in
  create | train)
    [[ $type && $runtime ]] ||
      die "Expected --type and --runtime to $action, found one missing; see --help."
    ;;
esac
case $action in
  run | train)
    (($#)) || die 'Expected flags of vimonet_jax.main after --, found none; see --help.'
    ;;
  *) (($# == 0)) || die "Expected no flags after -- to $action, found $1." ;;
esac

where=("--zone=$zone" ${project[@]+"${project[@]}"})
remote=vimonet_jax_run
# Begins what no two may do at once on a worker: the shell, and what it starts,
# hold the lock for as long as they run.
alone="exec 9>>$remote.lock && flock -w 1 9 || { echo 'Expected nothing to run \
here, found a program; wait for it with run, or watch it with logs.' >&2; exit 1; }"

do_it() {
  if [[ $dry ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

queued() {
  local verb=$1
  shift
  do_it gcloud compute tpus queued-resources "$verb" "$name" "${where[@]}" "$@"
}

on() {
  local workers=$1
  do_it gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" \
    "--worker=$workers" "--command=$2"
}

# What the request is in, e.g. ACTIVE, or NONE where there is none. The network
# may be away for a while.
state() {
  local said try
  for ((try = 0; try < 10; try++)); do
    ((try == 0)) || sleep 30
    if said=$(gcloud compute tpus queued-resources describe "$name" \
      "${where[@]}" '--format=value(state.state)' 2>&1); then
      # gcloud may have more to say.
      grep -xE '[A-Z_]+' <<<"$said" && return
    elif [[ $said == *NOT_FOUND* ]]; then
      echo NONE
      return
    fi
    echo "$said" >&2
  done
  die "Expected gcloud to say the state of $name, found the above ten times in a row; mend that and call again."
}

# Those that follow are called where bash lets no error end the script (before
# `||`), so each says for itself where it returns.

# Asks for the slice unless that was done, and waits until it is there.
create() {
  local ask=(queued create "--node-id=$name" "--accelerator-type=$type"
    "--runtime-version=$runtime" ${spot[@]+"${spot[@]}"})
  if [[ $dry ]]; then
    "${ask[@]}"
    queued describe '--format=value(state.state)'
    echo '# ... every 30 s until it says ACTIVE'
    return
  fi
  local now asked=''
  while true; do
    now=$(state) || exit
    echo "$(date '+%F %T') $now"
    case $now in
      ACTIVE) return ;;
      DELETING) ;;
      NONE)
        [[ ! $asked ]] ||
          die "Expected $name to become ACTIVE, found it deleted; ask again if it was not you."
        "${ask[@]}" || exit
        asked=1
        ;;
      FAILED)
        die "Expected $name to become ACTIVE, found $now; delete it and ask again."
        ;;
      SUSPENDING | SUSPENDED)
        echo "Expected $name to become ACTIVE, found $now; delete it and ask again." >&2
        return 1
        ;;
      *) asked=1 ;;
    esac
    sleep 30
  done
}

install() {
  local tar
  tar=${TMPDIR:-/tmp}/$remote.tar.gz
  do_it tar -czf "$tar" --exclude=.git --exclude=workdir \
    -C "$(dirname "$0")/.." . || return
  do_it gcloud compute tpus tpu-vm scp "$tar" "$name:$remote.tar.gz" \
    "${where[@]}" --worker=all || return
  do_it rm -f "$tar"
  # The Python of a TPU image may be older than ours (3.10 of Ubuntu 22.04) and
  # without venv, so uv brings one.
  on all "$alone; rm -rf $remote && mkdir $remote && tar -xzf $remote.tar.gz -C $remote \
&& cd $remote && curl -LsSf https://astral.sh/uv/install.sh | sh \
&& ~/.local/bin/uv venv --python 3.12 --seed venv \
&& venv/bin/pip install -q -e '.[tpu]'"
}

# Whether a program runs on a worker, as when the connection to it was lost.
busy() {
  local said
  said=$(on all "flock -n $remote.lock true || echo busy")
  if [[ $dry ]]; then
    echo "$said"
    return 1
  fi
  [[ $said == *busy* ]] || return
  echo "A program runs on $name already: nothing is started, this waits for it."
}

start() {
  [[ -z $mount ]] || on all "$mount" || return
  local flags
  flags=$(printf ' %q' "$@")
  # It goes on when this connection is lost.
  on all "$alone; cd $remote && rm -f status && (nohup sh -c 'venv/bin/python -m \
vimonet_jax.main --distributed \"\$@\"; echo \$? >status' sh$flags \
>>../$remote.log 2>&1 </dev/null &)"
}

# Waits for what was started, and returns its status.
follow() {
  # 137 if it ended without leaving a status, as when its worker was restarted.
  local ended="cat $remote/status" status
  local asked="$ended || flock -n -E 9 $remote.lock $ended || \
{ [ \$? = 9 ] && echo running || echo 137; }"
  if [[ $dry ]]; then
    on 0 "$asked"
    echo '# ... every 30 s until it says a number, the status of the run'
    return
  fi
  while true; do
    status=$(on 0 "$asked" 2>/dev/null) || status=lost
    case $status in
      running) ;;
      [0-9]*) return "$status" ;;
      *) ! gone || return 143 ;;
    esac
    sleep 30
  done
}

run() {
  busy || start "$@" || return
  follow
}

# Whether the slice is being taken away. The service may be late to say so.
gone() {
  local now
  sleep 60
  now=$(state) || exit
  case $now in
    SUSPENDING | SUSPENDED | FAILED) ;;
    NONE) die "Expected $name to be there, found it deleted; ask again if it was not you." ;;
    *) return 1 ;;
  esac
}

delete() {
  queued delete --force --quiet
}

attempt() {
  create && { busy || { install && start "$@"; }; } && follow
}

train() {
  local status
  if [[ $dry ]]; then
    attempt "$@"
    echo '# ... and if the slice is taken away meanwhile:'
    delete
    echo '# ... and from the beginning'
    return
  fi
  while true; do
    status=0
    attempt "$@" || status=$?
    ((status)) || return 0
    # Who is taken away may end in any way, and at any point.
    if gone; then
      echo "$(date '+%F %T') $name was taken away; asking for it again."
      while [[ $(state) == SUSPENDING ]]; do sleep 30; done
      delete || true # What is left is found SUSPENDED, and deleted then.
    elif ((status != 143)); then # Not even saved and stopped.
      return "$status"
    fi
  done
}

case $action in
  logs) on "$worker" "tail -n 100 -f $remote.log" ;;
  *) "$action" "$@" ;;
esac
