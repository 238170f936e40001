# The chart refuses what cannot be meant, in words. Sourced by 'test'.
# shellcheck shell=bash

wrong_values_are_refused() {
    local chart=$here/../../../deploy/helm/lockstep
    "$programs/helm" template lockstep "$chart" --set cluster.founder=a1 >"$work/rendered.yaml"
    # What the API server would say to it, without anything being made.
    kube create --dry-run=server -f "$work/rendered.yaml" -o name >/dev/null 2>"$work/refused" ||
        ! grep -v 'already exists' "$work/refused" || fail "the chart's objects are refused" "$(cat "$work/refused")"
    refuses 'cluster.founder is not set' cluster.name=x
    refuses 'storageClasses' cluster.founder=a1 'storageClasses[0].name=x' 'storageClasses[0].parameters.replica=3'
    refuses 'pools' cluster.founder=a1 'pools[0].name=p0' 'pools[0].path=/srv/p0' 'pools[0].size=10G'
    refuses 'witnes' cluster.founder=a1 witnes.enabled=false
    refuses 'a site with data' cluster.founder=a1 witness.site=a
}

refuses() { # words, values …
    local words=$1 values=() value
    shift
    for value in "$@"; do
        values+=(--set "$value")
    done
    ! "$programs/helm" template lockstep "$here/../../../deploy/helm/lockstep" "${values[@]}" >/dev/null 2>"$work/refused" ||
        fail "$* are taken, and should not be" "see values.schema.json"
    grep -q -- "$words" "$work/refused" || fail "$* are refused without '$words'" "$(cat "$work/refused")"
}

the_static_manifest_is_the_charts() {
    local root=$here/../../..
    PATH=$programs:$PATH "$root/deploy/static/render" | diff "$root/deploy/static/lockstep.yaml" - >"$work/refused" ||
        fail "deploy/static/lockstep.yaml is not what the chart says" "'deploy/static/render >deploy/static/lockstep.yaml' makes it so: $(head -n 5 "$work/refused")"
}

# Found by kubectl by its name; what it says is what the command says beside a daemon.
kubectl_lockstep_asks_a_daemon() {
    local said
    said=$(PATH=$here/../../../deploy:$programs:$PATH KUBECONFIG=$state/admin.kubeconfig in_control "$programs/kubectl" lockstep node list -o json </dev/null)
    [[ $(jq -r '[.[].name] | sort | join(" ")' <<<"$said") == "a1 a2 b1 b2 w1" ]] || fail "kubectl lockstep says: $said"
    ! LOCKSTEP_NAMESPACE=default PATH=$here/../../../deploy:$programs:$PATH KUBECONFIG=$state/admin.kubeconfig \
        in_control "$programs/kubectl" lockstep status 2>"$work/refused" </dev/null || fail "a daemon is found where none is"
    grep -q "no daemon is ready in the namespace 'default'" "$work/refused" || fail "without words" "$(<"$work/refused")"
}

# What can be switched off: a node whose pods are elsewhere, and not the last of a majority.
a_drain_says_what_is_in_the_way() {
    local node
    node=$(writer_node)
    ! lockstep node drain "$node" --check -o json >"$work/obstacles" 2>/dev/null || fail "$node can be drained, and the writer runs there"
    jq -e --arg volume "$(writer_volume)" 'length == 1 and .[0].code == "attached" and .[0].volume == $volume' "$work/obstacles" >/dev/null ||
        fail "in the way are: $(<"$work/obstacles")"
    ! lockstep node drain "$node" --timeout 2s >"$work/refused" 2>&1 || fail "$node was drained, and the writer runs there"
    grep -q 'still in the way after 2 s' "$work/refused" || fail "refused with: $(<"$work/refused")"
    [[ $(lockstep node list -o json | jq 'any(.[]; .cordoned)') == false ]] || fail "a drain that was refused leaves a node cordoned"
    node=$(node_names | grep "^$(node_zone "$node")" | grep -vx "$node")
    lockstep node drain "$node" | grep -q "Nothing needs $node now" || fail "$node cannot be drained"
    [[ $(lockstep node list -o json | jq -r '.[] | select(.cordoned) | .name') == "$node" ]] || fail "$node is not cordoned"
    lockstep node uncordon "$node" >/dev/null
}
