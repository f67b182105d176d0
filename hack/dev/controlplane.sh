# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Sourced by up and node: the certificates, network and processes of the control
# plane.
#
# The control plane and the managers run in a network namespace. Its only way out is
# a link to the LAN of the nodes. The processes of the control plane listen on
# 127.0.0.1 in the namespace, and a relay makes the API server's port available on
# 127.0.0.1 of this machine. For real kubelets, the API server also has an address on
# the LAN, and uses client certificates to reach them.

pki=$dev/pki
# The first IPs of the LAN are those of the managers.
manager_address() { echo "10.77.0.$((1 + $1))"; }
managers=2
api_address=10.77.0.9

# make_ca NAME SUBJECT
make_ca() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$pki/$1.key" -subj "$2" -days 365 -out "$pki/$1.crt" 2>/dev/null
}

# issue_certificate NAME SUBJECT [SAN [CA]]: makes a key and a certificate signed by
# the cluster's CA, or by another.
issue_certificate() {
  local name=$1 subject=$2 san=${3:-} ca=${4:-ca}
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$pki/$name.key" -subj "$subject" -out "$pki/$name.csr" 2>/dev/null
  openssl x509 -req -in "$pki/$name.csr" -CA "$pki/$ca.crt" -CAkey "$pki/$ca.key" -set_serial "0x$(openssl rand -hex 8)" -days 365 -out "$pki/$name.crt" \
    -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\n%s' "${san:+subjectAltName=$san}") 2>/dev/null
}

make_pki() {
  [ -f "$pki/done" ] && return
  mkdir -p "$pki" && chmod 700 "$pki"
  make_ca ca "/CN=bottle-dev-$tag"
  openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
  issue_certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:localhost,IP:127.0.0.1,IP:10.0.2.100,IP:10.96.0.1,IP:$api_address"
  issue_certificate admin /O=system:masters/CN=admin
  issue_certificate kube-controller-manager /CN=system:kube-controller-manager
  issue_certificate kube-scheduler /CN=system:kube-scheduler
  issue_certificate kubelet-client /O=system:masters/CN=kube-apiserver
  issue_certificate kwok /O=system:masters/CN=kwok
  # The API server signs in to aggregated API servers with this certificate. It has a
  # CA of its own, so that no other certificate of the cluster can pass for it.
  make_ca front-proxy-ca "/CN=bottle-dev-$tag-front-proxy"
  issue_certificate front-proxy-client /CN=front-proxy-client "" front-proxy-ca
  touch "$pki/done"
}

# kubeconfig FILE SERVER CREDENTIAL-FLAGS…: writes a kubeconfig.
kubeconfig() {
  local file=$1 server=$2
  shift 2
  rm -f "$file"
  {
    "$cp/kubectl" --kubeconfig "$file" config set-cluster dev --server "$server" --certificate-authority "$pki/ca.crt" --embed-certs
    "$cp/kubectl" --kubeconfig "$file" config set-credentials user "$@"
    "$cp/kubectl" --kubeconfig "$file" config set-context dev --cluster dev --user user
    "$cp/kubectl" --kubeconfig "$file" config use-context dev
  } >/dev/null
  chmod 600 "$file"
}

# component_kubeconfig NAME: writes the kubeconfig of a control plane component,
# which authenticates with its certificate.
component_kubeconfig() {
  kubeconfig "$pki/$1.kubeconfig" "https://127.0.0.1:$port_api" --client-certificate "$pki/$1.crt" --client-key "$pki/$1.key" --embed-certs
}

# choose_ports picks free ports of this machine, below the ephemeral range. It picks
# once per cluster; later runs read the choice from a file.
choose_ports() {
  if [ ! -f "$dev/ports" ]; then
    local names=(api ssh) used port n=0 base
    used=$(ss -Hltn | awk '{sub(/.*:/, "", $4); print $4}')
    base=$((20000 + 0x$tag % 10000))
    port=$base
    while [ $n -lt ${#names[@]} ]; do
      port=$((port + 1))
      grep -qx "$port" <<<"$used" && continue
      echo "port_${names[n]}=$port"
      n=$((n + 1))
    done >"$dev/ports"
  fi
  # shellcheck source=/dev/null
  . "$dev/ports"
}

# make_control_network: makes the namespace of the control plane and its link to the
# LAN. It has no other route.
make_control_network() {
  make_world_network
  [ -e "/run/netns/$control" ] && return
  ip netns add "$control"
  ip -n "$control" link set lo up
  ip link add "c$tag" netns "$world" type veth peer name lan0 netns "$control"
  ip -n "$world" link set "c$tag" master lan up
  local number
  for number in $(seq "$managers"); do ip -n "$control" addr add "$(manager_address "$number")/24" dev lan0; done
  ip -n "$control" addr add "$api_address/24" dev lan0
  ip -n "$control" link set lan0 up
}

# launch_control NAME COMMAND…: is launch, in the namespace of the control plane.
launch_control() {
  local name=$1
  shift
  launch "$name" nsenter "--net=/run/netns/$control" "$@"
}

start_controlplane() {
  make_control_network
  make_pki
  local reachable=(--bind-address 127.0.0.1 --advertise-address 10.255.255.1 --endpoint-reconciler-type none) grace=20s
  local etcd=http://127.0.0.1:2379 peer=http://127.0.0.1:2380 server=https://127.0.0.1:$port_api
  if real_kubelet; then
    # An emulated node may stand still for many seconds.
    grace=60s
    reachable=(--bind-address 0.0.0.0 --advertise-address "$api_address" --allow-privileged --kubelet-preferred-address-types InternalIP --kubelet-certificate-authority "$pki/ca.crt"
      --kubelet-client-certificate "$pki/kubelet-client.crt" --kubelet-client-key "$pki/kubelet-client.key")
  fi
  cat >"$dev/audit-policy.yaml" <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
END
  launch_control etcd "$cp/etcd" --data-dir "$dev/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$etcd" --advertise-client-urls "$etcd" --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
  launch_control kube-apiserver "$cp/kube-apiserver" --etcd-servers "$etcd" --secure-port "$port_api" "${reachable[@]}" \
    --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --service-account-key-file "$pki/sa.key" --service-account-signing-key-file "$pki/sa.key" --service-account-issuer https://kubernetes.default.svc \
    --authorization-mode Node,RBAC --audit-policy-file "$dev/audit-policy.yaml" --audit-log-path "$dev/audit.log" \
    --requestheader-client-ca-file "$pki/front-proxy-ca.crt" --requestheader-allowed-names front-proxy-client \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$pki/front-proxy-client.crt" --proxy-client-key-file "$pki/front-proxy-client.key" --enable-aggregator-routing
  # The relay opens this script's namespace, which is the machine's.
  launch_control relay-api "$bin/dev-relay" "/proc/$$/ns/net" "127.0.0.1:$port_api" "127.0.0.1:$port_api"
  kubeconfig "$dev/kubeconfig" "$server" --client-certificate "$pki/admin.crt" --client-key "$pki/admin.key" --embed-certs
  await 90 kube-apiserver "$dev/logs/kube-apiserver.log" k get --raw /readyz
  local name
  for name in kube-controller-manager kube-scheduler kwok; do component_kubeconfig "$name"; done
  launch_control kube-controller-manager "$cp/kube-controller-manager" --kubeconfig "$pki/kube-controller-manager.kubeconfig" --bind-address 127.0.0.1 \
    --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" --use-service-account-credentials --leader-elect=false \
    --node-monitor-grace-period "$grace" --concurrent-gc-syncs 2
  launch_control kube-scheduler "$cp/kube-scheduler" --kubeconfig "$pki/kube-scheduler.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false
}

# agent_kubeconfig SERVER FILE: writes the kubeconfig of an agent. Its token is in
# the file agent.token in the same folder: see ensure_token.
agent_kubeconfig() {
  kubeconfig "$2" "$1"
  "$cp/kubectl" --kubeconfig "$2" config set users.user.tokenFile agent.token >/dev/null
}

# account_kubeconfig NAME SERVER FILE: writes a kubeconfig that authenticates as
# a ServiceAccount.
account_kubeconfig() {
  local token
  token=$(k -n "$namespace" create token "$1" --duration 8760h)
  kubeconfig "$3" "$2" --token "$token"
}

# takes_flag COMMAND FLAG: succeeds unless the programs are of a release before the flag.
takes_flag() { "$programs/bottle-operator" "$1" --help 2>&1 | grep -e "--$2 " >/dev/null; }

# start_managers [NUMBER]: starts the replicas of the manager, or one of them.
start_managers() {
  local size=() extra=() access=() number bundle=(--bundle-image bottle-operator:dev)
  takes_flag manager bundle-image || bundle=(--placeholder-image registry.k8s.io/pause:3.10)
  if takes_flag manager allowed-bundle-images; then size+=("${bundle_images[@]}"); fi
  virtual && size+=(--default-cpus 1 --default-memory 256Mi)
  read -ra extra <<<"$(cat "$dev/manager.flags")"
  for number in ${1:-$(seq "$managers")}; do
    if takes_flag manager access-bind-address; then access=(--access-bind-address "$(manager_address "$number"):10250"); fi
    relaunch "manager-$number" nsenter "--net=/run/netns/$control" "$programs/bottle-operator" manager --kubeconfig "$dev/manager.kubeconfig" \
      --namespace "$namespace" --leader-elect "${bundle[@]}" "${access[@]}" \
      --metrics-bind-address "127.0.0.1:$((8080 + number))" --health-probe-bind-address "127.0.0.1:$((8090 + number))" "${size[@]}" "${extra[@]}"
  done
  for number in ${1:-$(seq "$managers")}; do
    await 30 "manager-$number" "$dev/logs/manager-$number.log" nsenter "--net=/run/netns/$control" busybox wget -qO- "http://127.0.0.1:$((8090 + number))/readyz"
  done
  publish_managers
}

stop_manager() {
  stop_process "manager-$1"
  publish_managers
}

# publish_managers: writes the addresses of the running managers to the endpoints of
# their Service, which has no selector because they have no Pods.
publish_managers() {
  local number endpoints=
  for number in $(seq "$managers"); do
    if running "manager-$number"; then endpoints+="{addresses: [$(manager_address "$number")], conditions: {ready: true}},"; fi
  done
  k apply --server-side -f - >/dev/null <<END
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: $namespace, name: bottle-manager-access, labels: {kubernetes.io/service-name: bottle-manager-access}}
addressType: IPv4
ports: [{name: https, port: 10250, protocol: TCP}]
endpoints: [${endpoints%,}]
END
}
