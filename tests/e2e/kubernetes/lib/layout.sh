# Names, places and addresses of the test bed. There is one bed a machine. Sourced; needs $here.
# shellcheck shell=bash disable=SC2034

# All that a bed writes, but for the cache of programs.
state=/var/tmp/lockstep-kubernetes
logs=$state/logs
# All that a bed runs is in cgroups below this one: so 'down' needs no list of processes.
cgroup=lockstep-kubernetes
control_group=$cgroup/control

# Every address is in network namespaces of the bed only. 198.18.0.0/15 is set aside for tests of networks
# (RFC 2544), so that it is nobody's network.
control_address=198.18.0.1
network_bits=24
api=https://$control_address:6443
service_range=198.19.0.0/16

# A node's number is its place in the list of nodes, from 1.
node_address() { printf '198.18.0.%d' $((10 + $1)); } # number
pod_range() { printf '198.18.%d.0/24' $((16 + $1)); } # number

node_home() { printf '%s/nodes/%s' "$state" "$1"; }       # name
node_group() { printf '%s/%s' "$cgroup" "$1"; }           # name
node_number() { awk -v name="$1" '$1 == name { print NR }' "$state/nodes.list"; } # name
node_zone() { printf '%s' "${1%%[0-9]*}"; }               # name: a1 is in zone a
node_names() { [[ ! -e $state/nodes.list ]] || cat "$state/nodes.list"; }

# Data nodes alternate between the sites a and b; w1 is the third site, for a witness.
make_node_list() { # how many data nodes
    local number
    for ((number = 0; number < $1; number++)); do
        case $((number % 2)) in
        0) echo "a$((number / 2 + 1))" ;;
        1) echo "b$((number / 2 + 1))" ;;
        esac
    done
    echo w1
}

bed_is_there() { [[ -e $state ]]; }
