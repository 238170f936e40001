# Claims and what pods do with them. Sourced by 'test'.
# shellcheck shell=bash

a_claim_is_bound_and_written() {
    local began=$EPOCHREALTIME copies
    start_writer
    await 120 "the writer's pod runs" "'$here/enter kubectl describe pod writer-0' says why" writer_is_ready
    figure "from a new claim to its pod running" "$(seconds_since "$began") s"
    await 30 "the writer writes" "'$here/enter kubectl logs writer-0' says why" has_said_more 20
    records_are_there_to 20
    [[ $(kube get pvc data-writer-0 -o 'jsonpath={.status.phase}') == Bound ]]
    copies=$(lockstep volume show "$(writer_volume)" -o json | jq '[.replicas[] | select(.certified) | .site] | sort | join(",")')
    [[ $copies == '"a,a,b"' ]] || fail "certified copies are in $copies, and the class says a=2,b=1"
}

a_block_volume_keeps_what_was_written() {
    local sum
    kube apply -f "$here/manifests/block.yaml" >/dev/null
    await 120 "the pod with a block volume runs" "'$here/enter kubectl describe pod block' says why" kube wait --for=condition=Ready pod/block --timeout=2s
    kube exec block -- sh -c 'dd if=/dev/urandom of=/tmp/written bs=1M count=16 && dd if=/tmp/written of=/dev/volume bs=1M oflag=direct conv=fsync' 2>/dev/null
    sum=$(kube exec block -- sha256sum /tmp/written | cut -d ' ' -f 1)
    [[ $(kube exec block -- sh -c 'dd if=/dev/volume bs=1M count=16 iflag=direct 2>/dev/null | sha256sum' | cut -d ' ' -f 1) == "$sum" ]] ||
        fail "the block volume reads otherwise than it was written"
    kube delete -f "$here/manifests/block.yaml" >/dev/null
}

a_volume_grows_under_its_pod() {
    local began before
    kube apply -f "$here/manifests/growing.yaml" >/dev/null
    await 120 "the pod with a growing volume runs" "'$here/enter kubectl describe pod growing' says why" kube wait --for=condition=Ready pod/growing --timeout=2s
    before=$(file_system_kilobytes)
    began=$EPOCHREALTIME
    kube patch pvc growing -p '{"spec": {"resources": {"requests": {"storage": "432Mi"}}}}' >/dev/null
    await 90 "the file system has grown" "'$here/enter kubectl describe pvc growing' says why" is_larger_than $((before + 100000))
    figure "from a larger claim to a larger file system under a running pod" "$(seconds_since "$began") s"
    kube delete -f "$here/manifests/growing.yaml" >/dev/null
}

file_system_kilobytes() {
    kube exec growing -- df -k /data | awk 'END { print $2 }'
}

is_larger_than() { (($(file_system_kilobytes) > $1)); }

a_deleted_claim_frees_its_volume() {
    local volume
    volume=$(writer_volume)
    remove_writer
    await 90 "the volume $volume is gone" "'$here/enter kubectl describe pv $volume' says why" volume_is_gone "$volume"
    await 30 "the volume $volume is deleted in the cluster too" "'lockstep volume show' there says why" cluster_has_not "$volume"
}

volume_is_gone() { ! kube get pv "$1" --ignore-not-found -o name | grep -q .; } # volume

cluster_has_not() { # volume
    local all
    all=$(lockstep volume list -o json) && ! grep -q "$1" <<<"$all"
}
