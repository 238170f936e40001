# The real kube-scheduler with our extender: pods land on their copies, and no pod waits for an extender that does not
# answer. Sourced by 'test'.
# shellcheck shell=bash

pods_land_on_their_copies() {
    local pod before after off
    kube apply -f "$here/manifests/near.yaml" >/dev/null
    await 180 "six pods with new volumes run" "'$here/enter kubectl describe pods -l app=near' says why" near_pods_run
    near_pods_are_on_copies
    kube get pod near-0 -o json | jq -e '.spec.containers[0].resources.limits["lockstep.dev/volume"] == "1"' >/dev/null ||
        fail "the webhook has not marked near-0" "'$here/enter kubectl -n lockstep logs deployment/lockstep-scheduler -c extender' may say why"
    # Their volumes have places now, and their pods none.
    before=$(extender_requests)
    kube delete pods -l app=near --wait=true >/dev/null
    await 120 "six pods with old volumes run" "'$here/enter kubectl describe pods -l app=near' says why" near_pods_run
    near_pods_are_on_copies
    after=$(extender_requests)
    ((after >= before + 12)) || fail "the extenders were asked $((after - before)) times about six pods" "each is asked twice a pod"
}

near_pods_run() {
    (($(kube get statefulset near -o 'jsonpath={.status.readyReplicas}') == 6))
}

near_pods_are_on_copies() {
    local number node holders
    for number in 0 1 2 3 4 5; do
        node=$(kube get pod "near-$number" -o 'jsonpath={.spec.nodeName}')
        holders=$(lockstep volume show "$(kube get pvc "data-near-$number" -o 'jsonpath={.spec.volumeName}')" -o json |
            jq -r '.replicas[] | select(.certified) | .node')
        grep -qx "$node" <<<"$holders" || fail "near-$number runs on $node, and its copies are on ${holders//$'\n'/, }"
    done
}

pods_without_our_volumes_ask_nothing() {
    local before after
    before=$(extender_requests)
    kube scale deployment plain --replicas=10 >/dev/null
    await 60 "ten pods without volumes run" "'$here/enter kubectl describe pods -l app=plain' says why" kube rollout status deployment/plain --timeout=2s
    after=$(extender_requests)
    kube scale deployment plain --replicas=0 >/dev/null
    ((after == before)) || fail "the extenders were asked $((after - before)) times about pods without our volumes"
}

# Twice 250 ms are what a scheduler may wait.
a_stopped_extender_delays_a_pod_by_two_timeouts() {
    local with without
    kube delete -f "$here/manifests/near.yaml" >/dev/null
    kube delete pvc -l app=near --wait=false >/dev/null
    # Its volume is made by the first of them.
    milliseconds_to_place >/dev/null
    with=$(milliseconds_to_place)
    signal_extenders STOP
    without=$(milliseconds_to_place)
    signal_extenders CONT
    kube -n lockstep delete -f "$here/manifests/placed.yaml" --wait=false >/dev/null
    figure "from kubectl being called to the scheduler having placed a pod" "$with ms; with stopped extenders $without ms"
    ((without >= with + 300)) || fail "with stopped extenders a pod waited $without ms, with running ones $with ms" "was nobody asked about it?"
    ((without <= with + 700)) || fail "with stopped extenders a pod waited $without ms, with running ones $with ms: more than two timeouts"
}

# From a call of kubectl that makes a pod to the event that says where it was put.
milliseconds_to_place() {
    local called uid
    kube -n lockstep delete pod placed --ignore-not-found --wait=true >/dev/null
    called=$(date +%s%3N)
    kube -n lockstep apply -f "$here/manifests/placed.yaml" >/dev/null
    await 60 "the pod 'placed' runs" "'$here/enter kubectl -n lockstep describe pod placed' says why" kube -n lockstep wait --for=condition=Ready pod/placed --timeout=2s
    uid=$(kube -n lockstep get pod placed -o 'jsonpath={.metadata.uid}')
    kube -n lockstep get events -o json | jq --arg uid "$uid" --argjson called "$called" '
        def milliseconds: capture("(?<whole>.*)[.](?<rest>[0-9]{3})") | (.whole + "Z" | fromdateiso8601) * 1000 + (.rest | tonumber);
        first(.items[] | select(.involvedObject.uid == $uid and .reason == "Scheduled")) | (.eventTime | milliseconds) - $called'
}
