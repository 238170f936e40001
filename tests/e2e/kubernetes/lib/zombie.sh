# A node that is half dead: its kubelet is gone and its daemon does not run, while its containers do, with all that they
# have mounted. Sourced; needs layout.sh, cgroups.sh and processes.sh.
# shellcheck shell=bash

# The processes of a node that run one of our programs.
processes_named() { # node, program
    local pid
    processes_of "$(node_group "$1")" | while read -r pid; do
        # It may have ended meanwhile.
        [[ $({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null) != *"$2"* ]] || echo "$pid"
    done
}

signal_daemon() { # node, signal
    local pids
    mapfile -t pids < <(processes_named "$1" 'lockstep daemon')
    ((${#pids[@]} == 1)) || fail "${#pids[@]} daemons run on $1, and one should" "'$here/enter --node $1 ps ax' shows them"
    kill "-$2" "${pids[@]}"
}

# Its kubelet ends first: it would say that the machine lives.
make_zombie() { # node
    kill -KILL "$(pid_of "kubelet-$1")"
    signal_daemon "$1" STOP
}

wake_daemon() { signal_daemon "$1" CONT; } # node

# What a container on the node has said, whether or not its kubelet lives to tell.
said_on() { # node, pod
    cat "$(node_home "$1")"/var/log/pods/default_"$2"_*/*/*.log 2>/dev/null
}
