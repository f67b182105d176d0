# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by other scripts: the locations of files, logging, timed steps and
# package installation.

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
