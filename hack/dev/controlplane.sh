# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Sourced by up and node: the certificates and processes of the control plane.
# The processes listen on 127.0.0.1 only.

pki=$dev/pki

# issue_certificate NAME SUBJECT [SAN]: makes a key and a certificate signed by
# the cluster's CA.
issue_certificate() {
  local name=$1 subject=$2 san=${3:-}
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$pki/$name.key" -subj "$subject" -out "$pki/$name.csr" 2>/dev/null
  openssl x509 -req -in "$pki/$name.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 -out "$pki/$name.crt" \
    -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\n%s' "${san:+subjectAltName=$san}") 2>/dev/null
}

make_pki() {
  [ -f "$pki/done" ] && return
  mkdir -p "$pki" && chmod 700 "$pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$pki/ca.key" -subj "/CN=bottle-dev-$tag" -days 365 -out "$pki/ca.crt" 2>/dev/null
  openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
  issue_certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:localhost,IP:127.0.0.1,IP:10.0.2.100,IP:10.96.0.1"
  issue_certificate admin /O=system:masters/CN=admin
  issue_certificate kube-controller-manager /CN=system:kube-controller-manager
  issue_certificate kube-scheduler /CN=system:kube-scheduler
  issue_certificate kwok /O=system:masters/CN=kwok
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

# choose_ports picks free ports below the ephemeral range. It picks once per
# cluster; later runs read the choice from a file.
choose_ports() {
  if [ ! -f "$dev/ports" ]; then
    local names=(api etcd peer scheduler kcm metrics health ssh) used port n=0 base
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

start_controlplane() {
  make_pki
  local etcd=http://127.0.0.1:$port_etcd peer=http://127.0.0.1:$port_peer server=https://127.0.0.1:$port_api
  cat >"$dev/audit-policy.yaml" <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
END
  launch etcd "$cp/etcd" --data-dir "$dev/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$etcd" --advertise-client-urls "$etcd" --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
  launch kube-apiserver "$cp/kube-apiserver" --etcd-servers "$etcd" --bind-address 127.0.0.1 --secure-port "$port_api" \
    --advertise-address 10.255.255.1 --endpoint-reconciler-type none --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --service-account-key-file "$pki/sa.key" --service-account-signing-key-file "$pki/sa.key" --service-account-issuer https://kubernetes.default.svc \
    --authorization-mode Node,RBAC --audit-policy-file "$dev/audit-policy.yaml" --audit-log-path "$dev/audit.log"
  kubeconfig "$dev/kubeconfig" "$server" --client-certificate "$pki/admin.crt" --client-key "$pki/admin.key" --embed-certs
  await 90 kube-apiserver "$dev/logs/kube-apiserver.log" k get --raw /readyz
  local name
  for name in kube-controller-manager kube-scheduler kwok; do component_kubeconfig "$name"; done
  launch kube-controller-manager "$cp/kube-controller-manager" --kubeconfig "$pki/kube-controller-manager.kubeconfig" --bind-address 127.0.0.1 --secure-port "$port_kcm" \
    --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" --use-service-account-credentials --leader-elect=false \
    --node-monitor-grace-period 20s --concurrent-gc-syncs 2
  launch kube-scheduler "$cp/kube-scheduler" --kubeconfig "$pki/kube-scheduler.kubeconfig" --bind-address 127.0.0.1 --secure-port "$port_scheduler" --leader-elect=false
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
