# The chart refuses what cannot be meant, in words. Sourced by 'test'.
# shellcheck shell=bash

wrong_values_are_refused() {
    local chart=$here/../../../deploy/helm/lockstep
    "$programs/helm" template lockstep "$chart" --set cluster.founder=a1 >"$work/rendered.yaml"
    # What the API server would say to it, without anything being made.
    kube create --dry-run=server --namespace default -f "$work/rendered.yaml" -o name >/dev/null 2>"$work/refused" ||
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
