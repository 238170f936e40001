# What is to be done in Kubernetes about a node that is known to be dead, so that its pods run elsewhere soon.
# Sourced; needs control-plane.sh.
# shellcheck shell=bash

node_is_not_ready() { # name
    [[ $(kube get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == Unknown ]]
}

force_delete() { # pod
    kube delete pod "$1" --force --grace-period=0 --wait=false >/dev/null 2>&1
}

# The attach-detach controller waits six minutes for a dead node to unmount what its status says is in use. Our own
# volumes are fenced, so that this is not waited for: only our entries are taken out.
forget_our_volumes_in_use() { # node
    local left
    left=$(kube get node "$1" -o json | jq -c '[.status.volumesInUse[]? | select(startswith("kubernetes.io/csi/csi.lockstep.dev^") | not)]')
    kube patch node "$1" --subresource=status --type=merge -p "{\"status\": {\"volumesInUse\": $left}}" >/dev/null
}

is_attached_to() { # volume, node
    kube get volumeattachments -o json |
        jq -e --arg volume "$1" --arg node "$2" 'any(.items[]; .spec.source.persistentVolumeName == $volume and .spec.nodeName == $node and .status.attached)' >/dev/null
}

is_not_attached_to() { ! is_attached_to "$@"; }
