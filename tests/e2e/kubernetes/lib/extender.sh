# The scheduler's extenders as processes: asked for their counters, stopped and woken. Sourced; needs zombie.sh.
# shellcheck shell=bash

extenders() {
    local name
    node_names | while read -r name; do
        processes_named "$name" 'lockstep-scheduler-extender --tls'
    done
}

# Requests that all extenders have answered. They are asked as their schedulers ask them.
extender_requests() {
    local pid sum=0 count
    for pid in $(extenders); do
        count=$(nsenter --target "$pid" --net -- curl --silent --fail --max-time 5 --cacert "/proc/$pid/root/tls/ca.crt" \
            --cert "/proc/$pid/root/tls/client.crt" --key "/proc/$pid/root/tls/client.key" https://127.0.0.1:7430/metrics |
            awk '/^lockstep_extender_requests_total/ { sum += $2 } END { print sum + 0 }')
        sum=$((sum + count))
    done
    echo "$sum"
}

signal_extenders() { # signal
    local pids
    mapfile -t pids < <(extenders)
    ((${#pids[@]} == 2)) || fail "${#pids[@]} extenders run, and two should" "'$here/enter kubectl -n lockstep get pods' shows them"
    kill "-$1" "${pids[@]}"
}
