# A node: namespaces, containerd, kubelet and kube-proxy, as on a machine of its own. Sourced.
# shellcheck shell=bash

# The directories that a node has for itself; the rest of the file system is the host's.
own_directories=(
    /etc/cni /run/containerd /run/netns /var/lib/cni /var/lib/containerd /var/lib/kubelet /var/lib/lockstep
    /var/log/containers /var/log/pods
)

# Something must be there to be covered by a node's own; what is made for it is noted, for 'down'.
make_mount_points() {
    local directory
    for directory in "${own_directories[@]}"; do
        [[ -d $directory ]] || { mkdir -p "$directory" && echo "$directory" >>"$state/mount-points"; }
    done
}

start_node() { # name
    local name=$1 group home
    group=$(node_group "$name")
    home=$(node_home "$name")
    make_cgroup "$group/system"
    start_holder "node-$name" "$group/system" --net --mount --uts
    in_node "$name" hostname "$name"
    in_node "$name" mount --make-rshared /
    local directory
    for directory in "${own_directories[@]}"; do
        mkdir -p "$home$directory"
        in_node "$name" mount --bind "$home$directory" "$directory"
        in_node "$name" mount --make-shared "$directory"
    done
    connect_node "$name"
    start_containerd "$name"
    import_base_images "$name"
    start_kubelet "$name"
    start_proxy "$name"
}

start_in_node() { # program's name, node, command …
    local name=$1 node=$2 holder
    holder=$(pid_of "node-$node")
    shift 2
    start "$name-$node" "$(node_group "$node")/system" nsenter --target "$holder" --net --mount --uts -- "$@"
}

start_containerd() { # name
    local name=$1 home
    home=$(node_home "$name")
    mkdir -p "$home/etc/cni/net.d"
    cat >"$home/etc/cni/net.d/10-bed.conflist" <<EOF
{"cniVersion": "1.0.0", "name": "bed", "plugins": [{"type": "ptp", "ipam": {
  "type": "host-local", "subnet": "$(pod_range "$(node_number "$name")")", "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF
    cat >"$home/containerd.toml" <<EOF
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$pause_image"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
EOF
    start_in_node containerd "$name" containerd --config "$home/containerd.toml"
    await_program "containerd-$name" 30 in_node "$name" ctr version
}

start_kubelet() { # name
    local name=$1 home
    home=$(node_home "$name")
    write_kubeconfig "node-$name" "$home/kubelet.kubeconfig"
    # Nothing here may depend on how full the developer's disk is: no eviction, no garbage collection.
    cat >"$home/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_address "$(node_number "$name")")
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$(node_group "$name")
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
volumePluginDir: /var/lib/kubelet/volume-plugins
EOF
    start_in_node kubelet "$name" "$programs/kubelet" --config "$home/kubelet.yaml" --kubeconfig "$home/kubelet.kubeconfig" \
        --hostname-override "$name" --node-ip "$(node_address "$(node_number "$name")")" \
        --node-labels "topology.kubernetes.io/zone=$(node_zone "$name")"
}

start_proxy() { # name
    local name=$1 home
    home=$(node_home "$name")
    write_kubeconfig proxy "$home/proxy.kubeconfig"
    cat >"$home/proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $name
clientConnection: {kubeconfig: $home/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOF
    start_in_node kube-proxy "$name" "$programs/kube-proxy" --config "$home/proxy.yaml"
}

node_is_ready() { # name
    [[ $(kube get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

# A node that died a moment ago still counts as ready: what its kubelet has said since it was started is what counts.
node_is_ready_again() { # name, second since 1970
    local said
    said=$(kube -n kube-node-lease get lease "$1" -o 'jsonpath={.spec.renewTime}') && (($(date -d "$said" +%s) >= $2)) && node_is_ready "$1"
}

# As a machine that loses its power: everything on it ends at once, what its kernel had not written yet is lost,
# and its cable goes dead, all without a word to anybody.
kill_node() { # name
    note_devices "$1"
    cut_cable "$1"
    kill_cgroup "$(node_group "$1")"
    remove_noted_devices
    remove_cgroup "$(node_group "$1")"
    rm -f "$state/pids/"*"-$1"
}
