# The health monitor, on and off. Sourced; needs control-plane.sh.
# shellcheck shell=bash

monitor_off() {
    kube -n lockstep scale deployment lockstep-monitor --replicas=0 >/dev/null
    await 30 "no monitor runs" "'$here/enter kubectl -n lockstep get pods' shows it" no_monitor_runs
}

monitor_on() {
    kube -n lockstep scale deployment lockstep-monitor --replicas=2 >/dev/null
    await 60 "both monitors run" "'$here/enter kubectl -n lockstep get pods' shows it" monitors_run 2
}

no_monitor_runs() {
    ! kube -n lockstep get pods -l app.kubernetes.io/component=monitor -o name | grep -q .
}

monitors_run() { # how many
    (($(kube -n lockstep get deployment lockstep-monitor -o 'jsonpath={.status.readyReplicas}') == $1))
}

has_our_taint() { # node
    kube get node "$1" -o json | jq -e 'any(.spec.taints[]?; .key == "lockstep.dev/silent")' >/dev/null
}

has_not_our_taint() { ! has_our_taint "$1"; } # node
