# Pods that move, daemons that are replaced, nodes that die: what was acknowledged is there. Sourced by 'test'.
# shellcheck shell=bash

# The two processes that stand between a pod and an error, each replaced while the other runs.
keeper_and_daemon_are_replaced_without_an_error() {
    local node uid last began
    node=$(writer_node)
    uid=$(writer .metadata.uid)
    follow_writer "$work/followed"
    kube -n lockstep delete pod -l app.kubernetes.io/component=keeper --field-selector "spec.nodeName=$node" >/dev/null
    await 60 "another keeper has the volume's device on $node" "'$here/enter kubectl -n lockstep get pods -o wide' shows it" keeper_has_devices "$node"
    began=$EPOCHREALTIME
    kube -n lockstep delete pod -l lockstep.dev/role=data --field-selector "spec.nodeName=$node" >/dev/null
    await 120 "another daemon serves on $node" "'$here/enter kubectl -n lockstep get pods -o wide' shows it" daemon_is_ready "$node"
    last=$(last_in "$work/followed")
    await 60 "the writer goes on" "'$here/enter kubectl logs writer-0' says what it does" has_said_more "$((last + 20))"
    figure "from a deleted daemon's pod to its pods' writes going on" "$(seconds_since "$began") s"
    stop_following
    [[ $(writer .metadata.uid) == "$uid" && $(writer '.status.containerStatuses[0].restartCount') == 0 ]] ||
        fail "the writer was restarted: a daemon's end has cost it an error" "$(kube logs writer-0 --previous --tail=3)"
    records_are_there_to "$(last_said)"
}

# Its descriptors beside the standard three and its socket's: it has only what it was given.
keeper_has_devices() { # node
    local pod
    pod=$(kube -n lockstep get pods -l app.kubernetes.io/component=keeper --field-selector "spec.nodeName=$1,status.phase=Running" -o name)
    kube -n lockstep exec "$pod" -- ls -l /proc/1/fd | grep -q "loop[0-9]"
}

daemon_is_ready() { # node
    kube -n lockstep get pods -l lockstep.dev/role=data --field-selector "spec.nodeName=$1" -o json |
        jq -e '(.items | length) == 1 and all(.items[]; .metadata.deletionTimestamp == null and any(.status.conditions[]; .type == "Ready" and .status == "True"))' >/dev/null
}

a_deleted_pod_continues_elsewhere() {
    local node said began
    node=$(writer_node)
    follow_writer "$work/followed"
    cordon "$node"
    began=$EPOCHREALTIME
    kube delete pod writer-0 --wait=true >/dev/null
    stop_following
    said=$(last_in "$work/followed")
    await 120 "the writer runs again" "'$here/enter kubectl describe pod writer-0' says why" writer_is_ready
    figure "from a deleted pod to its successor running on another node" "$(seconds_since "$began") s"
    uncordon "$node"
    [[ $(writer_node) != "$node" ]] || fail "the writer runs on $node again, which was cordoned"
    records_are_there_to "$said"
    await 30 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$said"
}

# The machine with the pod loses its power. What the test has heard to be durable is on the volume when it opens in
# another place; etcd and the controllers survive. No monitor runs: what is done here by hand is what it does.
a_dead_nodes_pod_continues_elsewhere() {
    local node volume said began
    monitor_off
    node=$(writer_node)
    volume=$(writer_volume)
    follow_writer "$work/followed"
    await 30 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$(last_said)"
    echo "$node" >"$work/dead"
    began=$EPOCHREALTIME
    "$here/node" kill "$node"
    stop_following
    said=$(last_in "$work/followed")
    await 120 "Kubernetes notices that $node is dead" "'$here/enter kubectl describe node $node' says what it thinks" node_is_not_ready "$node"
    figure "from a dead node to Kubernetes noticing (node-monitor-grace-period 50 s)" "$(seconds_since "$began") s"
    began=$EPOCHREALTIME
    force_delete writer-0
    forget_our_volumes_in_use "$node"
    await 120 "the volume is detached from $node" "'$here/enter kubectl describe volumeattachments' says why" is_not_attached_to "$volume" "$node"
    figure "from the dead node's pod deleted by force to its volume detached and fenced" "$(seconds_since "$began") s"
    await 120 "the writer runs elsewhere" "'$here/enter kubectl describe pod writer-0' says why" writer_is_ready
    figure "from the dead node's pod deleted by force to its successor running" "$(seconds_since "$began") s"
    [[ $(writer_node) != "$node" ]] || fail "the writer is said to run on $node, which is dead"
    records_are_there_to "$said"
    await 60 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$said"
    figure "from the dead node's pod deleted by force to new writes" "$(seconds_since "$began") s"
    monitor_on
}

a_dead_node_comes_back() {
    local node began volume
    node=$(<"$work/dead")
    volume=$(writer_volume)
    began=$EPOCHREALTIME
    "$here/node" start "$node"
    await 120 "the daemon on $node serves again" "'$here/enter kubectl -n lockstep get pods -o wide' shows it" daemon_is_ready "$node"
    await 180 "all three copies are certified again" "'lockstep volume explain $volume' there says why" has_certified_copies "$volume" 3
    figure "from a dead node's boot to all three copies certified" "$(seconds_since "$began") s"
    records_are_there_to "$(last_said)"
}

has_certified_copies() { # volume, how many
    (($(lockstep volume show "$1" -o json | jq '[.replicas[] | select(.certified)] | length') == $2))
}

# Every daemon's pod is replaced by a newer one, the writer's too, and no pod on them notices.
an_upgrade_replaces_daemons_one_by_one() {
    local uid began most=0 away
    uid=$(writer .metadata.uid)
    await 120 "all three copies are certified" "'lockstep volume explain $(writer_volume)' there says why" has_certified_copies "$(writer_volume)" 3
    began=$EPOCHREALTIME
    in_control "$programs/helm" upgrade lockstep "$here/../../../deploy/helm/lockstep" --kubeconfig "$state/admin.kubeconfig" \
        --namespace lockstep --values "$state/values.yaml" --set node.resources.requests.cpu="10$((RANDOM % 9 + 1))m" >"$logs/helm.log" 2>&1 ||
        fail "helm: $(tail -n 5 "$logs/helm.log")"
    until daemons_are_new; do
        away=$(kube -n lockstep get pods -l lockstep.dev/role=data -o json | jq '4 - ([.items[] | select(.metadata.deletionTimestamp == null) | select(any(.status.conditions[]?; .type == "Ready" and .status == "True"))] | length)')
        ((away <= most)) || most=$away
        ((${EPOCHREALTIME/[.,]/} < ${began/[.,]/} + 400000000)) || fail "not all daemons are new after 400 s" "'$here/enter kubectl -n lockstep logs deployment/lockstep-monitor' says why"
    done
    figure "from an upgrade to four daemons replaced one by one under a writer" "$(seconds_since "$began") s"
    ((most == 1)) || fail "$most daemons were away at a time"
    await 60 "the writer writes" "'$here/enter kubectl logs writer-0' says what it does" has_said_more "$(($(last_said) + 20))"
    [[ $(writer .metadata.uid) == "$uid" && $(writer '.status.containerStatuses[0].restartCount') == 0 ]] ||
        fail "the writer was restarted or moved: an upgrade has cost it an error" "$(kube logs writer-0 --previous --tail=3)"
    records_are_there_to "$(last_said)"
}

daemons_are_new() {
    kube -n lockstep get daemonsets -o json | jq -e '[.items[] | select(.metadata.name | startswith("lockstep-node-")) | .status |
        .updatedNumberScheduled == .desiredNumberScheduled and .numberReady == .desiredNumberScheduled] | length == 2 and all' >/dev/null
}
