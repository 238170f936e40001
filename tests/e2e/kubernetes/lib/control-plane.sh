# etcd, API server, controllers and scheduler, in the control network. Sourced.
# shellcheck shell=bash

# Who may ask the API server, by which token. Kubelets' and the proxies' are those that real clusters give them.
write_tokens() {
    local name
    {
        echo "$(token_of admin),admin,admin,system:masters"
        echo "$(token_of controllers),system:kube-controller-manager,controllers"
        echo "$(token_of scheduler),system:kube-scheduler,scheduler"
        echo "$(token_of proxy),system:kube-proxy,proxy"
        while read -r name; do
            echo "$(token_of "node-$name"),system:node:$name,node-$name,system:nodes"
        done < <(node_names)
    } >"$state/api/tokens.csv"
}

# Made once each.
token_of() { # whom
    local file=$state/api/token-$1
    [[ -s $file ]] || openssl rand -hex 24 >"$file"
    cat "$file"
}

write_kubeconfig() { # whose token, file
    (
        umask 077
        cat >"$2" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: bed, cluster: {server: "$api", certificate-authority: "$state/api/certs/apiserver.crt"}}]
users: [{name: user, user: {token: "$(token_of "$1")"}}]
contexts: [{name: bed, context: {cluster: bed, user: user}}]
current-context: bed
EOF
    )
}

start_etcd() {
    # What is lost with the machine is thrown away with the bed, too.
    start etcd "$control_group" nsenter --net="/proc/$(pid_of control-network)/ns/net" -- \
        "$programs/etcd" --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn
    await_program etcd 20 in_control bash -c ': <>/dev/tcp/127.0.0.1/2379'
}

start_api_server() {
    [[ -e $state/api/accounts.key ]] || openssl genrsa -out "$state/api/accounts.key" 2048 2>/dev/null
    start kube-apiserver "$control_group" nsenter --net="/proc/$(pid_of control-network)/ns/net" -- \
        "$programs/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --cert-dir "$state/api/certs" \
        --advertise-address "$control_address" --bind-address "$control_address" --secure-port 6443 \
        --service-cluster-ip-range "$service_range" --token-auth-file "$state/api/tokens.csv" \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged=true \
        --service-account-issuer "$api" --service-account-key-file "$state/api/accounts.key" \
        --service-account-signing-key-file "$state/api/accounts.key" \
        --kubelet-preferred-address-types InternalIP --enable-aggregator-routing=true
    write_kubeconfig admin "$state/admin.kubeconfig"
    await_program kube-apiserver 60 kube get --raw /readyz
}

start_controllers() {
    write_kubeconfig controllers "$state/api/controllers.kubeconfig"
    write_kubeconfig scheduler "$state/api/scheduler.kubeconfig"
    # The grace period before a silent node counts as dead stays as Kubernetes ships it (50 s).
    start kube-controller-manager "$control_group" nsenter --net="/proc/$(pid_of control-network)/ns/net" -- \
        "$programs/kube-controller-manager" --kubeconfig "$state/api/controllers.kubeconfig" \
        --service-account-private-key-file "$state/api/accounts.key" --root-ca-file "$state/api/certs/apiserver.crt" \
        --use-service-account-credentials --leader-elect=false --bind-address 127.0.0.1
    start kube-scheduler "$control_group" nsenter --net="/proc/$(pid_of control-network)/ns/net" -- \
        "$programs/kube-scheduler" --kubeconfig "$state/api/scheduler.kubeconfig" --leader-elect=false --bind-address 127.0.0.1
    await_program kube-controller-manager 30 kube -n default get serviceaccount default
    runs kube-scheduler || fail "the scheduler has ended" "its log: $logs/kube-scheduler.log"
}

# kubectl as the administrator.
kube() { # arguments
    in_control "$programs/kubectl" --kubeconfig "$state/admin.kubeconfig" "$@"
}
