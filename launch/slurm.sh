#!/usr/bin/env bash
# Several nodes with GPUs under Slurm. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: launch/slurm.sh --nodes=N --gpus-per-node=N [options] -- FLAGS...

Submits a job that runs `python -m vimonet_jax.main --distributed FLAGS...` in
one process a GPU, which is how JAX reads Slurm's variables. Five minutes before
the time limit, or when the job is preempted, the processes save and end, and
the job goes back into the queue. Submit from the environment to run in; it and
this folder have to be on a file system of all nodes.

  --nodes=N            how many
  --gpus-per-node=N    how many GPUs, and so processes, each has
  --cpus-per-task=N    cores a process (default: 8)
  --time=LIMIT         as sbatch has it (default: 24:00:00)
  --partition=NAME     \
  --account=NAME        > as sbatch has them (default: its own)
  --qos=NAME           /
  --job-name=NAME      (default: vimonet)
  --dry-run            print the job and how it would be submitted
HELP
}

die() {
  echo "$1" >&2
  exit 2
}

nodes='' gpus='' cpus=8 time=24:00:00 name=vimonet dry='' more=()
while (($#)); do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --cpus-per-task=*) cpus=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --partition=* | --account=* | --qos=*) more+=("$1") ;;
    --job-name=*) name=${1#*=} ;;
    --dry-run) dry=1 ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) die "Expected options of slurm.sh before --, found $1; see --help." ;;
  esac
  shift
done
(($#)) || die 'Expected flags of vimonet_jax.main after --, found none; see --help.'
for number in "nodes=$nodes" "gpus-per-node=$gpus" "cpus-per-task=$cpus"; do
  [[ ${number#*=} =~ ^[1-9][0-9]*$ ]] ||
    die "Expected --${number%%=*} to be a number from 1, found '${number#*=}'."
done

flags=$(printf ' %q' "$@")
# Before the time limit the batch shell alone is told (B:), and tells the tasks;
# of a preemption with a time of grace the tasks alone. Either way the job has to
# ask to be queued again, except when scancel ended it, which shows as COMPLETING.
# `wait` ends when a signal is heard, so it is asked twice. JAX gives each task
# the GPU of its number on the node, so all tasks must see all of them.
job=$(
  cat <<JOB
#!/usr/bin/env bash
srun --kill-on-bad-exit=1 --cpus-per-task=$cpus \\
  python -m vimonet_jax.main --distributed$flags &
tasks=\$! stopped=
trap 'stopped=1; scancel --signal=TERM "\$SLURM_JOB_ID.0"' TERM
status=0
wait "\$tasks" || status=\$?
if [[ \$stopped ]]; then
  status=0
  wait "\$tasks" || status=\$?
fi
# 143: saved and stopped. More than 128: by a signal, as when there was no time.
if ((status == 143)) || [[ \$stopped && \$status -gt 128 ]]; then
  [[ \$(squeue -h -o %T -j "\$SLURM_JOB_ID") == COMPLETING ]] ||
    scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
JOB
)
submit=(
  sbatch "--job-name=$name" "--nodes=$nodes" "--gpus-per-node=$gpus"
  "--ntasks-per-node=$gpus" "--cpus-per-task=$cpus" "--time=$time"
  --signal=B:TERM@300 --requeue --open-mode=append "--output=%x-%j.log"
  ${more[@]+"${more[@]}"}
)
if [[ $dry ]]; then
  printf '%q ' "${submit[@]}" && printf '<<JOB\n%s\nJOB\n' "$job"
  exit
fi
cd "$(dirname "$0")/.."
"${submit[@]}" <<<"$job"
