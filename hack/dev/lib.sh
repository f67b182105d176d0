# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it: where a cluster keeps its things, and how
# its processes are started, found again and ended.
# shellcheck source=hack/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

dev=${DEV_DIR:-$bin/dev}
mkdir -p "$dev"
dev=$(cd "$dev" && pwd)
here=$root/hack/dev
cp=$bin/controlplane
# Two clusters on one machine differ in their directory, and so in all names.
tag=$(printf %s "$dev" | sha256sum | cut -c1-5)
mode=$(cat "$dev/machines" 2>/dev/null || true)
nodes=$(cat "$dev/nodes.count" 2>/dev/null || true)

# started PID: the start time of a process, which tells it from a later one of
# the same number. One that has ended and only waits to be reaped has none.
started() { awk '{sub(/.*\) /, ""); if ($1 != "Z") print $20}' "/proc/$1/stat" 2>/dev/null; }

# launch NAME COMMAND…: starts a process of the cluster in a session of its
# own, unless it runs; its log is logs/NAME.log.
launch() {
  local name=$1
  shift
  running "$name" && return
  mkdir -p "$dev/run" "$dev/logs"
  setsid "$@" </dev/null >>"$dev/logs/$name.log" 2>&1 &
  printf '%s %s\n' "$!" "$(started "$!")" >"$dev/run/$name.pid"
}

# renew NAME COMMAND…: as launch, but a process that was started by another
# command line, or from another build of the operator, is replaced.
renew() {
  local name=$1 key
  shift
  key=$({ printf '%s\0' "$@"; stat -c '%i %Y %s' "$bin/bottle-operator"; } | sha256sum)
  [ "$(cat "$dev/run/$name.key" 2>/dev/null)" = "$key" ] || end "$name"
  launch "$name" "$@"
  echo "$key" >"$dev/run/$name.key"
}

pid_of() { cut -d' ' -f1 "$dev/run/$1.pid" 2>/dev/null; }

running() {
  local pid start
  read -r pid start 2>/dev/null <"$dev/run/$1.pid" || return 1
  [ -n "$start" ] && [ "$(started "$pid")" = "$start" ]
}

# end NAME [SIGNAL]: ends a process that launch started and waits for it.
end() {
  local pid
  running "$1" || { rm -f "$dev/run/$1.pid"; return 0; }
  pid=$(pid_of "$1")
  kill "-${2:-TERM}" "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    running "$1" || break
    sleep 0.1
  done
  running "$1" && kill -KILL "$pid" 2>/dev/null
  while running "$1"; do sleep 0.05; done
  rm -f "$dev/run/$1.pid"
}

# ended LOG: whether the log is of a process that was launched and has ended:
# there is nothing to wait for.
ended() {
  local name
  name=$(basename "$1" .log)
  [ "$1" = "$dev/logs/$name.log" ] && [ -e "$dev/run/$name.pid" ] && ! running "$name"
}

# await SECONDS WHAT LOG COMMAND…: waits until the command succeeds. LOG is a
# file, or NODE:/FILE on a virtual node.
await() {
  local limit=$(($1 * 5)) what=$2 log=$3
  shift 3
  for _ in $(seq "$limit"); do
    "$@" >/dev/null 2>&1 && return
    ended "$log" && break
    sleep 0.2
  done
  say "$what did not come up; see $log:" >&2
  case $log in
    *:/*) vssh "${log%%:*}" tail -n 15 "${log#*:}" ;;
    *) tail -n 15 "$log" ;;
  esac >&2
  return 1
}

k() { "$cp/kubectl" --kubeconfig "$dev/kubeconfig" "$@"; }

# in_node NODE COMMAND…: runs a command in a node's namespaces.
in_node() {
  local holder
  holder=$(pid_of "holder-$1")
  shift
  nsenter -t "$holder" -m -n -- "$@"
}

# quoted WORD…: the words as a shell reads them back, whatever is in them.
quoted() {
  local word quote="'\\''"
  for word in "$@"; do printf "'%s' " "${word//\'/$quote}"; done
}

# ssh_node NODE OPTION… -- COMMAND…: runs a command on a virtual node, with
# stdin. The shell there stays, so that a death by signal has a status; what
# it would say of that itself is left out.
ssh_node() {
  local node=$1 options=()
  shift
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  ssh -F "$dev/nodes/$node/ssh_config" -o "ControlPath=/run/bb$tag-$node.ssh" "${options[@]}" vnode "{ $(quoted "$@") 2>&3 3>&-; } 3>&2 2>/dev/null; exit \$?"
}

vssh() {
  local node=$1
  shift
  ssh_node "$node" -T -- "$@"
}

# has_node NODE: whether the cluster has it.
has_node() { [ -d "$dev/nodes/$1" ]; }

virtual() { [ "$mode" = virtual ]; }
