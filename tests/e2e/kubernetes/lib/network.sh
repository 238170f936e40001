# The bed's network: a namespace with a bridge, in which the control plane is, and one namespace a node with one
# cable to that bridge. The host's own network is not touched. Sourced; needs layout.sh and processes.sh.
# shellcheck shell=bash

in_control() { # command …
    nsenter --net="/proc/$(pid_of control-network)/ns/net" -- "$@"
}

in_node() { # name, command …
    local holder
    holder=$(pid_of "node-$1")
    shift
    nsenter --target "$holder" --net --mount --uts -- "$@"
}

make_control_network() {
    local name
    start_holder control-network "$control_group" --net
    in_control ip link set lo up
    in_control ip link add bed type bridge
    in_control ip address add "$control_address/$network_bits" dev bed
    in_control ip link set bed up
    in_control sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    # The API server asks webhooks, which are pods.
    while read -r name; do
        add_pod_route in_control "$name"
    done < <(node_names)
}

# The cable of a node goes with its namespace.
connect_node() { # name
    local name=$1 number other
    number=$(node_number "$name")
    in_control ip link add "to-$name" type veth peer name eth0 netns "$(pid_of "node-$name")"
    in_control ip link set "to-$name" master bed up
    in_node "$name" ip link set lo up
    in_node "$name" ip address add "$(node_address "$number")/$network_bits" dev eth0
    in_node "$name" ip link set eth0 up
    in_node "$name" ip route add default via "$control_address"
    in_node "$name" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    while read -r other; do
        [[ $other == "$name" ]] || add_pod_route "in_node $name" "$other"
    done < <(node_names)
}

# Nothing that ends on a node can say goodbye any more. What waits for that keeps the node's namespace for a while. A node
# that has not started in full may have no cable.
cut_cable() { # name
    in_control ip link delete "to-$1" 2>/dev/null || true
}

add_pod_route() { # where, to the pods of which node
    local number
    number=$(node_number "$2")
    $1 ip route add "$(pod_range "$number")" via "$(node_address "$number")"
}
