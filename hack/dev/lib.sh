# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts in this folder: where a cluster keeps its files, and
# how its processes are started, found and stopped.
# shellcheck source=hack/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

dev=${DEV_DIR:-$bin/dev}
mkdir -p "$dev"
dev=$(cd "$dev" && pwd)
here=$root/hack/dev
cp=$bin/controlplane
# Each cluster has its own directory. All names on this machine contain a hash
# of it, so that two clusters do not collide.
tag=$(printf %s "$dev" | sha256sum | cut -c1-5)
# The network namespaces of the simulated outside world (see node.sh) and of the
# control plane (see controlplane.sh).
world=bb$tag-world
control=bb$tag-control
mode=$(cat "$dev/machines" 2>/dev/null || true)
nodes=$(cat "$dev/nodes.count" 2>/dev/null || true)
# real, or simulated: kwok stands for the kubelets, and the operator runs outside of
# the cluster.
kubelet=$(cat "$dev/kubelet" 2>/dev/null || echo "${KUBELET:-simulated}")
# pod: the bundles are containers of the Bottles' Pods, and no node has a Docker Engine.
# docker: every node has one, and the bundles are its containers.
if [ "$kubelet" = real ]; then bundle_runtime=pod; else bundle_runtime=docker; fi
bundle_runtime=$(cat "$dev/bundle-runtime" 2>/dev/null || echo "${BUNDLE_RUNTIME:-$bundle_runtime}")
# The namespace that the operator is installed in.
namespace=$(cat "$dev/namespace" 2>/dev/null || echo "${NAMESPACE:-bottle-system}")

# The flags of managers and agents for the images that Bottles may name for their bundles.
bundle_images=(--allowed-bundle-images 'example.test/*')

# The folder with the operator's programs. On local nodes, a test of upgrades begins
# with those of an earlier release.
programs=$(cat "$dev/programs" 2>/dev/null || echo "$bin")

# start_time PID: prints the start time of a process, which distinguishes it
# from a later process with the same pid. It prints nothing for a zombie.
start_time() { awk '{sub(/.*\) /, ""); if ($1 != "Z") print $20}' "/proc/$1/stat" 2>/dev/null; }

# launch NAME COMMAND…: starts a process of the cluster in its own session,
# unless it is running. Its log is logs/NAME.log.
launch() {
  local name=$1
  shift
  running "$name" && return
  mkdir -p "$dev/run" "$dev/logs"
  setsid "$@" </dev/null >>"$dev/logs/$name.log" 2>&1 &
  printf '%s %s\n' "$!" "$(start_time "$!")" >"$dev/run/$name.pid"
}

# relaunch NAME COMMAND…: is like launch, but replaces a process that was
# started with another command line or from another build of the operator.
relaunch() {
  local name=$1 key
  shift
  key=$({ printf '%s\0' "$@"; stat -c '%i %Y %s' "$programs/bottle-operator"; } | sha256sum)
  [ "$(cat "$dev/run/$name.key" 2>/dev/null)" = "$key" ] || stop_process "$name"
  launch "$name" "$@"
  echo "$key" >"$dev/run/$name.key"
}

pid_of() { cut -d' ' -f1 "$dev/run/$1.pid" 2>/dev/null; }

running() {
  local pid start
  read -r pid start 2>/dev/null <"$dev/run/$1.pid" || return 1
  [ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ]
}

# stop_process NAME [SIGNAL]: stops a process that launch started, and waits
# until it has ended. After ten seconds it sends SIGKILL.
stop_process() {
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

# has_ended LOG: succeeds if LOG belongs to a launched process that has ended,
# so that there is nothing left to wait for.
has_ended() {
  local name
  name=$(basename "$1" .log)
  [ "$1" = "$dev/logs/$name.log" ] && [ -e "$dev/run/$name.pid" ] && ! running "$name"
}

# await SECONDS WHAT LOG COMMAND…: waits until COMMAND succeeds. On failure it
# shows the end of LOG: a file, or NODE:/FILE on a virtual node.
await() {
  local limit=$(($1 * 5)) what=$2 log=$3
  shift 3
  for _ in $(seq "$limit"); do
    "$@" >/dev/null 2>&1 && return
    has_ended "$log" && break
    sleep 0.2
  done
  log "$what did not start; see $log:" >&2
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

# shell_quote WORD…: prints the words quoted for a shell.
shell_quote() {
  local word quote="'\\''"
  for word in "$@"; do printf "'%s' " "${word//\'/$quote}"; done
}

# ssh_node NODE OPTION… -- COMMAND…: runs a command on a virtual node, with
# stdin. The remote shell does not exec the command, so that the exit status
# shows when a signal killed it. The shell's own message about that is discarded.
ssh_node() {
  local node=$1 options=()
  shift
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  ssh -F "$dev/nodes/$node/ssh_config" -o "ControlPath=/run/bb$tag-$node.ssh" "${options[@]}" vnode "{ $(shell_quote "$@") 2>&3 3>&-; } 3>&2 2>/dev/null; exit \$?"
}

vssh() {
  local node=$1
  shift
  ssh_node "$node" -T -- "$@"
}

# has_node NODE: succeeds if the cluster has the node.
has_node() { [ -d "$dev/nodes/$1" ]; }

virtual() { [ "$mode" = virtual ]; }

real_kubelet() { [ "$kubelet" = real ]; }

has_docker() { [ "$bundle_runtime" = docker ]; }
