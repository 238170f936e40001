# The pod of manifests/writer.yaml, and what it has said: every number in the log that is followed here was durable
# before it was said. Sourced; needs say.sh, layout.sh and control-plane.sh.
# shellcheck shell=bash

start_writer() {
    kube apply -f "$here/manifests/writer.yaml" >/dev/null
}

remove_writer() {
    kube delete -f "$here/manifests/writer.yaml" --ignore-not-found >/dev/null
    kube delete pvc data-writer-0 --ignore-not-found --wait=false >/dev/null
}

writer() { # jsonpath
    kube get pod writer-0 -o "jsonpath={$1}"
}

writer_node() { writer .spec.nodeName; }

writer_volume() { kube get pvc data-writer-0 -o 'jsonpath={.spec.volumeName}'; }

writer_is_ready() { [[ $(writer '.status.conditions[?(@.type=="Ready")].status') == True ]]; }

# The last number that the pod of now has said.
last_said() {
    kube logs writer-0 --tail=1 | grep -x '[0-9]*'
}

# Whether it has said a number above this one.
has_said_more() { # number
    local last
    last=$(last_said) && ((last > $1))
}

# Keeps what the pod says in a file, until the pod or the follower ends.
follow_writer() { # file
    kube logs writer-0 --follow >"$1" 2>/dev/null &
    follower=$!
}

stop_following() {
    kill "$follower" 2>/dev/null || true
    wait "$follower" 2>/dev/null || true
}

last_in() { grep -x '[0-9]*' "$1" | tail -n 1; } # file

# Every record up to one that was said to be durable is there, once, and in order.
records_are_there_to() { # number
    local there
    there=$(kube exec writer-0 -- head -n "$1" /data/records | sha256sum)
    [[ $there == "$(seq 1 "$1" | sha256sum)" ]] || fail "the volume has not what was acknowledged to record $1" "$(kube exec writer-0 -- tail -n 3 /data/records | tr '\n' ' ') are its last records"
}

# Removes the pod's node from those that can take pods, as an administrator does for maintenance.
cordon() { kube cordon "$1" >/dev/null; }     # node
uncordon() { kube uncordon "$1" >/dev/null; } # node

# A command of ours, in a daemon's container on a node that lives.
lockstep() { # arguments
    local pod
    pod=$(kube -n lockstep get pods -l lockstep.dev/role=data -o json |
        jq -r 'first(.items[] | select(.metadata.deletionTimestamp == null) | select(any(.status.conditions[]?; .type == "Ready" and .status == "True")) | .metadata.name)')
    kube -n lockstep exec "$pod" -c daemon -- lockstep "$@"
}
