# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by other scripts: the locations of files, logging, timed steps, the variables of
# the development cluster, and package installation.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/bin
export CGO_ENABLED=0

log() { printf '%s  %s\n' "$(date +%T)" "$*"; }

# step WHAT COMMAND…: runs COMMAND and logs WHAT and how many seconds it took.
# Do not call it in a condition: the shell would disable errexit inside it.
step() {
  current_step=$1
  local what=$1 start=$SECONDS
  shift
  log "$what …"
  "$@"
  log "$what: done in $((SECONDS - start)) s"
  current_step=
}
current_step=
trap '[ $? = 0 ] || [ -z "$current_step" ] || log "$current_step: failed" >&2' EXIT

# check_cluster_variables says which of the variables of make dev-up have values that no
# cluster can have, before anything is built.
check_cluster_variables() {
  local machines=${MACHINES:-real} kubelet=${KUBELET:-simulated}
  case $machines in real | standin) ;; *) echo "MACHINES=$machines: want real or standin" >&2; exit 2 ;; esac
  case $kubelet in real | simulated) ;; *) echo "KUBELET=$kubelet: want real or simulated" >&2; exit 2 ;; esac
  case ${BUNDLE_RUNTIME:-docker} in pod | docker) ;; *) echo "BUNDLE_RUNTIME=$BUNDLE_RUNTIME: want pod or docker" >&2; exit 2 ;; esac
  case ${NODES:-1} in 0* | *[!0-9]*) echo "NODES=$NODES: want a number from 1" >&2; exit 2 ;; esac
  if [ "$kubelet $machines" = "real standin" ]; then echo "KUBELET=real with MACHINES=standin: a real kubelet needs MACHINES=real" >&2; exit 2; fi
  if [ "$kubelet ${BUNDLE_RUNTIME:-}" = "simulated pod" ]; then echo "BUNDLE_RUNTIME=pod with KUBELET=simulated: bundles in Pods need KUBELET=real" >&2; exit 2; fi
}

# need COMMAND PACKAGE…: installs Debian packages if COMMAND is missing.
need() {
  local command=$1
  shift
  PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null && return
  [ "$(id -u)" = 0 ] || { echo "$command is missing: install the package(s) $*" >&2; return 1; }
  log "installing $*"
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}
