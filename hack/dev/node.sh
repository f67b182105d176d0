# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Sourced by up, down, exec and node: creates and starts the parts of a node.
# The names of the namespaces are in lib.sh.
#
# A local node is a network namespace and a mount namespace, both held open by
# one process. dockerd and the agent run inside. The node has no route out of
# this machine: only a veth to the cluster's simulated outside world.

# Where smolvm is on a node. The operator's DaemonSet installs it below current.
smolvm_home=/opt/smolvm
if real_kubelet; then smolvm_home=/opt/smolvm/current; fi
node_path=$smolvm_home:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
clean_env=(env -i "PATH=$node_path" HOME=/root LANG=C.UTF-8)

# make_world: makes a namespace that simulates the internet (203.0.113.10 and
# 2001:db8::10), the cloud metadata service (169.254.169.254 and fd00:ec2::254)
# and a neighbour on the LAN (10.77.0.1 and fd00:77::1): see hack/dev/world.
# Everything that reaches it is logged in logs/world.jsonl. The authority of its
# certificate is world/ca.pem.
# The neighbour runs an image registry on port 5000: see hack/dev/registry. Its
# requests are logged in logs/registry.jsonl.
make_world() {
  make_world_network
  launch world nsenter "--net=/run/netns/$world" "$bin/dev-world" -log "$dev/logs/world.jsonl" -tls "$dev/world"
  launch registry nsenter "--net=/run/netns/$world" "$bin/dev-registry" serve -dir "$dev/registry" -log "$dev/logs/registry.jsonl"
  await 20 "the registry" "$dev/logs/registry.log" ip netns exec "$world" nc -z 10.77.0.1 5000
  await 20 "the world's certificate" "$dev/logs/world.log" test -s "$dev/world/ca.pem"
  push_image bottle/guest:1 <"$bin/images/guest.tar" >/dev/null
}

# push_image REPOSITORY:TAG: pushes the archive on stdin to the registry on
# the nodes' LAN, and prints the image's digest there.
push_image() {
  nsenter "--net=/run/netns/$world" "$bin/dev-registry" push -ca "$dev/registry/ca.pem" \
    -user bottle -password-file "$dev/registry/password" - "10.77.0.1:5000/$1"
}

make_world_network() {
  [ -e "/run/netns/$world" ] && return
  ip netns add "$world"
  ip -n "$world" link set lo up
  ip -n "$world" addr add 203.0.113.10/24 dev lo
  ip -n "$world" addr add 169.254.169.254/32 dev lo
  ip -n "$world" link add lan type bridge
  ip -n "$world" addr add 10.77.0.1/24 dev lan
  ip -n "$world" link set lan up
  world_ipv6
}

# world_ipv6: gives the world its IPv6 addresses, if the kernel has IPv6.
world_ipv6() {
  local address
  [ -d /proc/sys/net/ipv6 ] || return 0
  for address in fd00:77::1/64 2001:db8::10/128 fd00:ec2::254/128; do
    ip -n "$world" -6 addr replace "$address" dev lan nodad
  done
}

# node_ipv6 NUMBER IP-COMMAND…: gives a node its IPv6 address on the LAN and its
# routes to the rest of the world, if the kernel has IPv6.
node_ipv6() {
  local number=$1 net
  shift
  [ -d /proc/sys/net/ipv6 ] || return 0
  "$@" -6 addr replace "fd00:77::$((10 + number))/64" dev world0 nodad
  for net in 2001:db8::/32 fd00:ec2::254/128; do "$@" -6 route replace "$net" via fd00:77::1; done
}

# make_local_node NAME NUMBER: makes the node's namespaces, its mounts and its
# link to the world.
make_local_node() {
  local node=$1 number=$2 netns=bb$tag-$1 dir=$dev/nodes/$1 near=b$tag-$2
  running "holder-$node" && return
  ip netns list | grep -qw "$netns" || ip netns add "$netns"
  ip -n "$netns" link set lo up
  ip link add "$near" netns "$world" type veth peer name world0 netns "$netns"
  ip -n "$world" link set "$near" master lan up
  ip -n "$netns" addr add "10.77.0.$((10 + number))/24" dev world0
  ip -n "$netns" link set world0 up
  ip -n "$netns" route add 203.0.113.0/24 via 10.77.0.1
  ip -n "$netns" route add 169.254.169.254/32 via 10.77.0.1
  node_ipv6 "$number" ip -n "$netns"
  mkdir -p "$dir/var-lib/"{bottle,bottle-images,docker} "$dir/opt/"{dev,smolvm}
  chmod 711 "$dir/var-lib/bottle"
  install -m 644 "$dev/registry/ca.pem" "$dir/opt/dev/registry-ca.pem"
  install -m 644 "$dev/world/ca.pem" "$dir/opt/dev/world-ca.pem"
  if [ -e /dev/kvm ] && [ ! -e "$dir/kvm" ]; then
    mknod -m 666 "$dir/kvm" c "$((0x$(stat -c %t /dev/kvm)))" "$((0x$(stat -c %T /dev/kvm)))"
  fi
  launch "holder-$node" nsenter "--net=/run/netns/$netns" unshare -m --propagation private "$here/holder" "$dir" "$(smolvm_dir)"
  await 10 "$node" "$dev/logs/holder-$node.log" in_node "$node" test -e /run/ready
}

# smolvm_dir: prints the folder that is mounted at /opt/smolvm on local nodes.
smolvm_dir() {
  case $mode in
    standin) echo "$bin/standin/${STANDIN_VERSION:-1.32.2}" ;;
    *) echo "$bin/smolvm/${SMOLVM_VERSION:-1.32.2}" ;;
  esac
}

# vlaunch NODE NAME COMMAND…: is like relaunch, but on a virtual node: it
# replaces the process if its command line or the node's operator binary has
# changed. The log is /var/log/NAME.log there.
vlaunch() {
  local node=$1
  shift
  # shellcheck disable=SC2016 # the node's shell expands them
  vssh "$node" sh -c '
    name=$1; shift
    key=$({ printf "%s\0" "$@"; ls -lin --full-time /usr/local/bin/bottle-operator 2>/dev/null; } | sha256sum)
    if pid=$(cat "/run/$name.pid-dev" 2>/dev/null) && kill -0 "$pid" 2>/dev/null; then
      [ "$(cat "/run/$name.key-dev")" = "$key" ] && exit 0
      kill "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    fi
    setsid "$@" </dev/null >>"/var/log/$name.log" 2>&1 &
    echo $! >"/run/$name.pid-dev"
    echo "$key" >"/run/$name.key-dev"
  ' sh "$@" </dev/null
}

# vstop NODE NAME [SIGNAL]: stops a process that vlaunch started, and waits until it has
# ended.
vstop() {
  # shellcheck disable=SC2016 # the node's shell expands them
  vssh "$1" sh -c '
    pid=$(cat "/run/$1.pid-dev" 2>/dev/null) || exit 0
    kill "-$2" "$pid" 2>/dev/null || exit 0
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
  ' sh "$2" "${3:-TERM}" </dev/null
}

start_docker() {
  local node=$1
  # dockerd trusts the registry too, so that benchmarks can compare its pulls
  # with the agent's.
  local serve=(SSL_CERT_FILE=/opt/dev/registry-ca.pem dockerd -H unix:///run/docker.sock --data-root /var/lib/docker --exec-root /run/docker-exec -p /run/docker.pid)
  local probe=("${clean_env[@]}" docker -H unix:///run/docker.sock version)
  if virtual; then
    vlaunch "$node" dockerd "${clean_env[@]}" "${serve[@]}"
    await 180 "dockerd on $node" "$node:/var/log/dockerd.log" vssh "$node" "${probe[@]}"
    return
  fi
  launch "dockerd-$node" nsenter -t "$(pid_of "holder-$node")" -m -n -- "${clean_env[@]}" "${serve[@]}"
  await 60 "dockerd on $node" "$dev/logs/dockerd-$node.log" in_node "$node" "${probe[@]}"
}

stop_docker() {
  if virtual; then vstop "$1" dockerd; else stop_process "dockerd-$1"; fi
}

start_relay() {
  launch_control "relay-$1" "$bin/dev-relay" "/proc/$(pid_of "holder-$1")/ns/net" 127.0.0.1:6443 "127.0.0.1:$port_api"
}

# cgroup_parent NODE: prints the parent cgroup for the machines of a local node.
# It is unique, because all nodes of all clusters share this host's hierarchy.
cgroup_parent() { echo "bottle-dev-$tag-$1.slice"; }

# remove_cgroups: removes the cgroups of all local nodes and kills the processes
# that still run in them.
remove_cgroups() {
  local mount dir
  mount=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
  for dir in "$mount/bottle-dev-$tag-"*.slice; do
    [ -d "$dir" ] || continue
    echo 1 >"$dir/cgroup.kill"
    for _ in $(seq 100); do
      grep -qx 'populated 0' "$dir/cgroup.events" && break
      sleep 0.1
    done
    find "$dir" -depth -type d -exec rmdir {} +
  done
}

# The flags that every agent has, also one that a DaemonSet starts.
world_flags=(--default-image file:guest.tar --local-image-dir /var/lib/bottle-images "${bundle_images[@]}"
  --image-ca /opt/dev/registry-ca.pem --proof-target 203.0.113.10:443 --proof-target 203.0.113.10:53)
agent_flags=(--state-dir /var/lib/bottle --docker-host unix:///run/docker.sock --smolvm-dir /opt/smolvm
  "${world_flags[@]}" --egress-closed 10.96.0.0/16 --metrics-bind-address 127.0.0.1:8080 --health-probe-bind-address 127.0.0.1:8081)

# on_node NODE COMMAND…: runs a command where the agent's files of a node are: on a
# virtual node, or else on this machine.
on_node() {
  local node=$1
  shift
  if virtual; then vssh "$node" "$@"; else "$@"; fi
}

# ensure_token NODE: gives the agent a token that is bound to its Node, unless it
# has one. The agent itself renews it. A Node that was deleted and created again has
# another UID, which makes its old token void. If the API server is down, the agent
# keeps the token that it has.
ensure_token() {
  local node=$1 file=$dev/nodes/$1/agent.token uid token
  virtual && file=/etc/bottle/agent.token
  uid=$(k get node "$node" -o 'jsonpath={.metadata.uid}') || return 0
  # The agent's tokens are valid for seven days.
  if [ "$(cat "$dev/nodes/$node/token.uid" 2>/dev/null)" = "$uid" ] &&
    [ -n "$(on_node "$node" find "$file" -mmin -7200 </dev/null 2>/dev/null)" ]; then
    return 0
  fi
  token=$(k -n "$namespace" create token bottle-agent --bound-object-kind Node --bound-object-name "$node" --bound-object-uid "$uid" --duration 168h)
  # shellcheck disable=SC2016 # the other shell expands them
  on_node "$node" sh -c 'umask 077 && cat >"$1.new" && mv "$1.new" "$1"' sh "$file" <<<"$token"
  echo "$uid" >"$dev/nodes/$node/token.uid"
}

start_agent() {
  local node=$1 own=() extra=()
  ensure_token "$node"
  if takes_flag agent egress-upstream-ca; then own+=(--egress-upstream-ca /opt/dev/world-ca.pem); fi
  read -ra extra <<<"${AGENT_FLAGS:-}"
  if virtual; then
    vlaunch "$node" bottle-agent "${clean_env[@]}" /usr/local/bin/bottle-operator agent --kubeconfig /etc/bottle/agent.kubeconfig \
      --node-name "$node" "${agent_flags[@]}" "${own[@]}" --max-concurrent-starts 1 --start-timeout 5m "${extra[@]}"
    await 180 "agent on $node" "$node:/var/log/bottle-agent.log" vssh "$node" busybox wget -qO- http://127.0.0.1:8081/readyz
    return
  fi
  own+=(--cgroup-parent "$(cgroup_parent "$node")")
  [ -e "$dev/nodes/$node/kvm" ] || own+=(--kvm-device '')
  # A low limit lets a test exceed it without filling a disk.
  [ "$mode" != standin ] || own+=(--image-max-bytes "$((1 << 30))")
  relaunch "agent-$node" nsenter -t "$(pid_of "holder-$node")" -m -n -- "${clean_env[@]}" "$programs/bottle-operator" agent \
    --kubeconfig "$dev/nodes/$node/agent.kubeconfig" --node-name "$node" "${agent_flags[@]}" "${own[@]}" "${extra[@]}"
  await 60 "agent on $node" "$dev/logs/agent-$node.log" in_node "$node" busybox wget -qO- http://127.0.0.1:8081/readyz
}

# stop_agent NODE [SIGNAL]
stop_agent() {
  if virtual; then vstop "$1" bottle-agent "${@:2}"; else stop_process "agent-$1" "${@:2}"; fi
}

start_kubelet() {
  if real_kubelet; then start_real_kubelet "$1"; return; fi
  launch_control "kwok-$1" "$cp/kwok" --kubeconfig "$pki/kwok.kubeconfig" --manage-single-node "$1" --config "$here/kwok.yaml" --node-lease-duration-seconds 12 --enable-crds=
}

# node_address NODE: the node's address on the LAN.
node_address() { echo "10.77.0.$((10 + ${1#node-}))"; }

# create_node NAME: creates the Node object, as a kubelet would.
create_node() {
  # Room for 250 Bottles of the default size: a stand-in takes little of it.
  local node=$1 cpu=2000 memory=1000Gi disk=1000Gi capacity
  if virtual; then cpu=16 memory=6Gi disk=64Gi; fi
  capacity="{\"cpu\":\"$cpu\",\"memory\":\"$memory\",\"ephemeral-storage\":\"$disk\",\"pods\":\"500\"}"
  k get node "$node" >/dev/null 2>&1 && return
  k create -f - >/dev/null <<END
{apiVersion: v1, kind: Node, metadata: {name: $node, labels: {kubernetes.io/hostname: $node, kubernetes.io/os: linux, kubernetes.io/arch: amd64}}}
END
  k patch node "$node" --subresource=status --type merge -p \
    "{\"status\":{\"capacity\":$capacity,\"allocatable\":$capacity,\"addresses\":[{\"type\":\"InternalIP\",\"address\":\"$(node_address "$node")\"}]}}" >/dev/null
}
