# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Sourced by up and node, for KUBELET=real: the parts of a virtual node that runs a
# kubelet of its own, and the operator on it.
#
# The node runs containerd, runc, kubelet and kube-proxy, and with BUNDLE_RUNTIME=docker
# also a Docker Engine. Its Pods are on a CNI bridge. The control plane has a route to them, and the API server
# has an address on the LAN of the nodes, so that traffic goes both ways. No registry
# is dialled: the images are on the node's disk.

# pod_network NUMBER: the network of the Pods of a node.
pod_network() { echo "10.244.$1.0/24"; }

# make_kubelet_files NODE NUMBER: writes what goes into /etc of the node.
make_kubelet_files() {
  local node=$1 number=$2 etc=$dev/nodes/$1/etc server=https://$api_address:$port_api
  mkdir -p "$etc/kubelet" "$etc/cni/net.d" "$etc/containerd"
  if [ ! -f "$pki/kubelet-$node.crt" ]; then
    issue_certificate "kubelet-$node" "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$(node_address "$node")"
    issue_certificate "kube-proxy-$node" /CN=system:kube-proxy
    kubeconfig "$etc/kubelet/kubeconfig" "$server" --client-certificate "$pki/kubelet-$node.crt" --client-key "$pki/kubelet-$node.key" --embed-certs
    kubeconfig "$etc/kubelet/kube-proxy.kubeconfig" "$server" --client-certificate "$pki/kube-proxy-$node.crt" --client-key "$pki/kube-proxy-$node.key" --embed-certs
  fi
  install -m 600 "$pki/kubelet-$node.key" "$etc/kubelet/server.key"
  install -m 644 "$pki/kubelet-$node.crt" "$etc/kubelet/server.crt"
  install -m 644 "$pki/ca.crt" "$etc/kubelet/ca.crt"
  cat >"$etc/kubelet/config.yaml" <<'YAML'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
# The node has no systemd.
cgroupDriver: cgroupfs
tlsCertFile: /etc/kubelet/server.crt
tlsPrivateKeyFile: /etc/kubelet/server.key
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubelet/ca.crt}
authorization: {mode: Webhook}
YAML
  # The node may not set the limits of connection tracking: its kernel's suffice.
  cat >"$etc/kubelet/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /etc/kubelet/kube-proxy.kubeconfig}
clusterCIDR: 10.244.0.0/16
mode: ${PROXY_MODE:-iptables}
conntrack: {maxPerCore: 0}
YAML
  cat >"$etc/cni/net.d/10-bridge.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(pod_network "$number")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
JSON
  # An emulated node needs more than the default of 2 s.
  cat >"$etc/crictl.yaml" <<'YAML'
runtime-endpoint: unix:///run/containerd/containerd.sock
timeout: 60
YAML
  cat >"$etc/containerd/config.toml" <<'TOML'
version = 3
root = '/opt/kubelet/store'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.10'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/opt/kubelet']
TOML
}

# The images that a node has, by the names of their archives in bin/images.
kubelet_images=(pause guest foreign-bundle bottle-operator bottle-smolvm)

# prepare_kubelet NODE NUMBER: copies the configuration to the node, and does what a
# kubelet expects of the node's kernel. It must run before dockerd: that makes the node
# drop forwarded packets if forwarding was off.
prepare_kubelet() {
  local node=$1 number=$2 other
  make_kubelet_files "$node" "$number"
  tar -C "$dev/nodes/$node/etc" --owner=0 --group=0 -cf - . | vssh "$node" tar -C /etc -xmf -
  # The operator's DaemonSet installs smolvm.
  # shellcheck disable=SC2016 # the node's shell expands them
  vssh "$node" sh -ec '
    [ ! -e /opt/smolvm/smolvm ] || rm -rf /opt/smolvm /usr/local/bin/smolvm
    mkdir -p /opt/kubelet /var/lib/kubelet
    mountpoint -q /opt/kubelet || mount /dev/vdb /opt/kubelet
    [ -d /opt/kubelet/imported ] || { echo "the node has a disk that an earlier hack/dev made: run make dev-down first" >&2; exit 1; }
    [ -e /var/lib/bottle-images/guest.tar ] || cp /opt/kubelet/images/guest.tar /var/lib/bottle-images/
    mount --make-rshared /
    echo 1 >/proc/sys/net/ipv4/ip_forward
    modprobe nf_conntrack # kube-proxy sets its timeouts, and ends if they are not there
    ip route replace 10.96.0.0/16 dev world0
  ' </dev/null
  ip -n "$control" route replace "$(pod_network "$number")" via "$(node_address "$node")"
  for other in $(seq "$nodes"); do
    [ "$other" = "$number" ] || vssh "$node" ip route replace "$(pod_network "$other")" via "$(node_address "node-$other")" </dev/null
  done
}

# import_images NODE: imports the images that the node lacks. Those on its disk are imported
# already (see hack/kubelet/disk), but one may have been built since the node booted.
import_images() {
  local node=$1 have name sum
  have=$(vssh "$node" sh -c 'cd /opt/kubelet/imported && grep "" *' </dev/null)
  for name in "${kubelet_images[@]}"; do
    sum=$(sha256sum <"$bin/images/$name.tar")
    if grep -qxF "$name:$sum" <<<"$have"; then continue; fi
    vssh "$node" /opt/kubelet/ctr -n k8s.io images import - <"$bin/images/$name.tar" >/dev/null
    vssh "$node" tee "/opt/kubelet/imported/$name" <<<"$sum" >/dev/null
  done
}

# start_part NODE containerd|kubelet|kube-proxy: starts a part, unless it runs.
start_part() {
  local node=$1 part=$2 search=PATH=$node_path flags=()
  case $part in
    containerd)
      search=PATH=/opt/kubelet:$node_path # it starts the shim
      flags=(--config /etc/containerd/config.toml)
      ;;
    kubelet) flags=(--config /etc/kubelet/config.yaml --kubeconfig /etc/kubelet/kubeconfig --hostname-override "$node" --node-ip "$(node_address "$node")") ;;
    kube-proxy) flags=(--config /etc/kubelet/kube-proxy.yaml --hostname-override "$node") ;;
    *) echo "got $part, want containerd, kubelet or kube-proxy" >&2; return 2 ;;
  esac
  vlaunch "$node" "$part" "${clean_env[@]}" "$search" "/opt/kubelet/$part" "${flags[@]}"
  if [ "$part" = containerd ]; then await 120 "containerd on $node" "$node:/var/log/containerd.log" vssh "$node" /opt/kubelet/ctr version; fi
}

# start_real_kubelet NODE: starts the container runtime, kubelet and kube-proxy, and imports
# the images.
start_real_kubelet() {
  local node=$1
  start_part "$node" containerd
  start_part "$node" kubelet
  start_part "$node" kube-proxy
  import_images "$node"
  await 180 "kubelet on $node" "$node:/var/log/kubelet.log" k wait --for=condition=Ready --timeout=0 "node/$node"
}

# flag_list WORD…: prints flags as a YAML list. "--flag value" becomes "--flag=value", as
# the chart wants it.
flag_list() {
  local word list=
  for word; do
    case $word in
      -*) list+="\", \"$word" ;;
      *) list+="=$word" ;;
    esac
  done
  [ -z "$list" ] || printf '%s"' "${list#\", }"
}

# install_operator installs the chart as a user does, with the flags that fit an emulated
# node in a simulated world. Nothing of the operator is started by hand.
install_operator() {
  local agent=() manager=() image
  read -ra agent <<<"${AGENT_FLAGS:-}"
  read -ra manager <<<"${MANAGER_FLAGS:-}"
  agent=("${world_flags[@]}" --egress-upstream-ca /opt/dev/world-ca.pem --max-concurrent-starts 1 --start-timeout 5m "${agent[@]}")
  if takes_flag manager allowed-bundle-images; then manager+=("${bundle_images[@]}"); fi
  # Without the flag, the agent finds the kubelet and uses no Docker Engine.
  if has_docker; then agent+=(--bundle-runtime docker); fi
  manager=(--default-cpus 1 --default-memory 256Mi "${manager[@]}")
  # The tag is always the same, so this makes the Pods change with the image.
  image=$(sha256sum <"$bin/images/bottle-operator.tar" | cut -c1-16)
  cat >"$dev/values.yaml" <<YAML
image: {tag: dev}
networkPolicy: {apiServerPorts: [$port_api]}
agent: {args: [$(flag_list "${agent[@]}")], podAnnotations: {image: "$image"}}
manager: {args: [$(flag_list "${manager[@]}")], podAnnotations: {image: "$image"}}
YAML
  "$bin/helm" upgrade --install bottle-operator "$root/charts/bottle-operator" --kubeconfig "$dev/kubeconfig" \
    --namespace "$namespace" --create-namespace --values "$dev/values.yaml" >"$dev/logs/helm.log"
  await 300 "the operator" "$dev/logs/helm.log" operator_is_ready
}

operator_is_ready() {
  k -n "$namespace" rollout status deployment/bottle-manager daemonset/bottle-agent --timeout=1s &&
    access_api_is_available && all_nodes_offer_bottles
}

# pod_log NODE: prints the log of the agent's Pod on the node.
pod_log() {
  local pod
  pod=$(k -n "$namespace" get pods -l app.kubernetes.io/component=agent --field-selector "spec.nodeName=$1" -o name)
  k -n "$namespace" logs --all-containers "${pod:?no agent on $1}"
}
