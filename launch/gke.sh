#!/usr/bin/env bash
# A TPU slice of GKE: fills gke_jobset.yaml in and applies it. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: launch/gke.sh --name=NAME --accelerator=TPU --topology=AxB[xC]
       --image=IMAGE --claim=CLAIM [options] -- FLAGS...

Runs `python -m vimonet_jax.main --distributed FLAGS...` in one pod on each host
of a slice, in the cluster that kubectl speaks to, and again when hosts are
taken away (and thrice after crashes, but not after errors). `kubectl logs -f
--max-log-requests=1000 -l jobset.sigs.k8s.io/jobset-name=NAME` shows what it
prints, `kubectl delete jobset NAME` ends it. JobSet has to be installed there,
in version 0.10 or newer.

  --name=NAME        of the JobSet
  --accelerator=TPU  as GKE's node label has it, e.g. tpu-v5-lite-podslice
  --topology=AxB     of the slice, e.g. 4x4
  --chips=N          chips a host (default: 4, or all of a smaller topology)
  --image=IMAGE      with this folder as its working directory, installed with
                     pip install '.[tpu]'
  --claim=CLAIM      a PersistentVolumeClaim that many nodes may write
                     (ReadWriteMany); it is /data, where --workdir belongs
  --spot             on Spot nodes
  --dry-run          print the manifest and the command, and do nothing
HELP
}

die() {
  echo "$1" >&2
  exit 2
}

name='' accelerator='' topology='' chips='' image='' claim='' spot='' dry=''
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --chips=*) chips=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --claim=*) claim=${1#*=} ;;
    --spot) spot=1 ;;
    --dry-run) dry=1 ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) die "Expected options of gke.sh before --, found $1; see --help." ;;
  esac
  shift
done
(($#)) || die 'Expected flags of vimonet_jax.main after --, found none; see --help.'
for given in "name=$name" "accelerator=$accelerator" "image=$image" "claim=$claim"; do
  [[ ${given#*=} ]] || die "Expected --${given%%=*}, found none; see --help."
done
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
  die "Expected --topology as 4x4 or 2x2x4, found '$topology'."
all=$((${topology//x/*}))
: "${chips:=$((all < 4 ? all : 4))}"
if ! [[ $chips =~ ^[1-9][0-9]*$ ]] || ((all % chips)); then
  die "Expected --chips to divide the $all chips of $topology, found '$chips'."
fi

flags='"--distributed"'
for flag in "$@"; do
  flag=${flag//\\/\\\\}
  flags+=", \"${flag//\"/\\\"}\""
done
manifest=$(<"$(dirname "$0")/gke_jobset.yaml")
fill() {
  # Quoted, or bash would put what it found in place of an &.
  manifest=${manifest//"$1"/"$2"}
}
[[ -z $spot ]] || fill "# \$SPOT" 'cloud.google.com/gke-spot: "true"'
fill "
                # \$SPOT" ''
fill "\$NAME" "$name"
fill "\$HOSTS" "$((all / chips))"
fill "\$ACCELERATOR" "$accelerator"
fill "\$TOPOLOGY" "$topology"
fill "\$CHIPS" "$chips"
fill "\$IMAGE" "$image"
fill "\$CLAIM" "$claim"
fill "\$FLAGS" "$flags"
if [[ $dry ]]; then
  printf '%s\n# kubectl apply -f -\n' "$manifest"
  exit
fi
kubectl apply -f - <<<"$manifest"
