# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it: where things are, and a timed step.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/bin
export CGO_ENABLED=0

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }

# step WHAT COMMAND…: runs COMMAND, says what it was and the seconds it took.
# It must not be called in a condition, which would switch errexit off in it.
step() {
  underway=$1
  local what=$1 begin=$SECONDS
  shift
  say "$what …"
  "$@"
  say "$what: done in $((SECONDS - begin)) s"
  underway=
}
underway=
trap '[ $? = 0 ] || [ -z "$underway" ] || say "$underway: failed" >&2' EXIT

# need COMMAND PACKAGE…: installs Debian packages where COMMAND is missing.
need() {
  local command=$1
  shift
  PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null && return
  [ "$(id -u)" = 0 ] || { echo "needs $command: install the package(s) $*" >&2; return 1; }
  say "installing $*"
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}
