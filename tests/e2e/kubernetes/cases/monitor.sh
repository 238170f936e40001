# The health monitor: pods of dead nodes run elsewhere without anybody's help; what must stay stays. Sourced by 'test'.
# shellcheck shell=bash

# The machine with the writer loses its power. On it are also a pod that nobody would make again, and one that may be
# deleted although nobody would.
the_monitor_moves_a_dead_nodes_pods() {
    local node volume said began uid
    node=$(writer_node)
    volume=$(writer_volume)
    echo "$node" >"$work/dead"
    sed "s/NODE/$node/" "$here/manifests/bare.yaml" | kube apply -f - >/dev/null
    await 120 "the bare pods run on $node" "'$here/enter kubectl describe pod stays goes' says why" bare_pods_run
    uid=$(kube get pod stays -o 'jsonpath={.metadata.uid}')
    follow_writer "$work/followed"
    await 30 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$(last_said)"
    began=$EPOCHREALTIME
    "$here/node" kill "$node"
    stop_following
    said=$(last_in "$work/followed")
    await 60 "the volume is detached from $node" "'$here/enter kubectl -n lockstep logs deployment/lockstep-monitor' says why" is_not_attached_to "$volume" "$node"
    figure "from a dead node to its volume detached and fenced, with the monitor" "$(seconds_since "$began") s"
    await 60 "the writer runs elsewhere" "'$here/enter kubectl describe pod writer-0' says why" writer_runs_off "$node"
    figure "from a dead node to its pod running elsewhere, with the monitor" "$(seconds_since "$began") s"
    records_are_there_to "$said"
    await 60 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$said"
    figure "from a dead node to new writes, with the monitor" "$(seconds_since "$began") s"
    has_our_taint "$node" || fail "new pods may come to $node, which is dead"
    await 20 "the pod that may be deleted is gone" "'$here/enter kubectl describe pod goes' says why" pod_is_gone goes
    [[ $(kube get pod stays -o 'jsonpath={.metadata.uid}') == "$uid" ]] || fail "the pod that nobody would make again was deleted"
    is_attached_to "$(kube get pvc stays -o 'jsonpath={.spec.volumeName}')" "$node" ||
        fail "the volume of the pod that stays was detached from $node"
    [[ $(kube -n lockstep get pods -l lockstep.dev/role=data --field-selector "spec.nodeName=$node" -o name | wc -l) == 1 ]] ||
        fail "the pod of a DaemonSet on $node was deleted"
}

bare_pods_run() { kube wait --for=condition=Ready pod/stays pod/goes --timeout=2s; }

pod_is_gone() { ! kube get pod "$1" --ignore-not-found -o name | grep -q .; } # pod

# The pod of a dead node counts as ready until Kubernetes notices: another one is meant.
writer_runs_off() { # node
    writer_is_ready && [[ $(writer_node) != "$1" ]]
}

a_node_that_comes_back_takes_pods_again() {
    local node
    node=$(<"$work/dead")
    "$here/node" start "$node"
    await 120 "the daemon on $node serves again" "'$here/enter kubectl -n lockstep get pods -o wide' shows it" daemon_is_ready "$node"
    await 30 "the monitor's taint is lifted" "'$here/enter kubectl -n lockstep logs deployment/lockstep-monitor' says why" has_not_our_taint "$node"
    await 180 "all three copies are certified again" "'lockstep volume explain $(writer_volume)' there says why" has_certified_copies "$(writer_volume)" 3
    kube delete pod stays --force --grace-period=0 >/dev/null 2>&1
    kube delete pvc stays goes --wait=false >/dev/null
}

# Its daemon does not run for five seconds: nobody hears it for one or two of them, and three are its grace.
a_node_back_within_its_grace_keeps_its_pods() {
    local node uid
    node=$(writer_node)
    uid=$(writer .metadata.uid)
    signal_daemon "$node" STOP
    sleep 5
    signal_daemon "$node" CONT
    await 60 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$(($(last_said) + 20))"
    [[ $(writer .metadata.uid) == "$uid" ]] || fail "the writer was moved off $node, which was away for a moment"
    has_not_our_taint "$node" || fail "$node is tainted, and is well"
    records_are_there_to "$(last_said)"
}

# Kubelet and daemon end, or stop, and the container goes on: its writes wait. When the daemon wakes, the volume has
# long been written elsewhere, and what waited fails.
a_zombie_that_wakes_cannot_write() {
    local node said began
    node=$(writer_node)
    echo "$node" >"$work/dead"
    await 30 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$(last_said)"
    began=$EPOCHREALTIME
    make_zombie "$node"
    await 60 "the writer runs elsewhere" "'$here/enter kubectl describe pod writer-0' says why" writer_runs_off "$node"
    figure "from a zombie to its pod running elsewhere, with the monitor" "$(seconds_since "$began") s"
    said=$(said_on "$node" writer-0 | awk '{ print $NF }' | grep -x '[0-9]*' | tail -n 1)
    await 60 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$((said + 50))"
    wake_daemon "$node"
    await 60 "the zombie's write fails" "what it said is in $(node_home "$node")/var/log/pods" zombie_failed "$node"
    await 30 "the writer goes on" "'$here/enter kubectl logs writer-0' says why" has_said_more "$(($(last_said) + 50))"
    # The zombie's next record would be there twice.
    records_are_there_to "$(last_said)"
    # Nothing but a boot ends what runs there without a kubelet.
    "$here/node" kill "$node"
}

zombie_failed() { said_on "$1" writer-0 | grep -q 'failed at'; } # node

# Both nodes of the writer's site and what they vote with end at once.
the_monitor_moves_a_dead_sites_pods() {
    local node site said began other killers=()
    node=$(writer_node)
    site=$(node_zone "$node")
    follow_writer "$work/followed"
    await 30 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$(last_said)"
    began=$EPOCHREALTIME
    for other in $(node_names | grep "^$site"); do
        "$here/node" kill "$other" &
        killers+=("$!")
    done
    await 90 "the writer runs in the other site" "'$here/enter kubectl describe pod writer-0' says why" writer_runs_off_site "$site"
    figure "from a dead site to its pod running in the other, with the monitor" "$(seconds_since "$began") s"
    wait "${killers[@]}"
    stop_following
    said=$(last_in "$work/followed")
    records_are_there_to "$said"
    await 60 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more "$said"
    figure "from a dead site to new writes, with the monitor" "$(seconds_since "$began") s"
    for other in $(node_names | grep "^$site"); do
        "$here/node" start "$other"
    done
    await 120 "the daemon on $node serves again" "'$here/enter kubectl -n lockstep get pods -o wide' shows it" daemon_is_ready "$node"
    await 240 "all three copies are certified again" "'lockstep volume explain $(writer_volume)' there says why" has_certified_copies "$(writer_volume)" 3
}

writer_runs_off_site() { # site
    writer_is_ready && [[ $(node_zone "$(writer_node)") != "$1" ]]
}
