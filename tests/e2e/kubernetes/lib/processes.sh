# Starting the bed's programs. Each has its cgroup, its log, and a file with its process id. Sourced.
# shellcheck shell=bash

# Starts a program in the background. It is in a session of its own, so that no terminal ends it.
start() { # name, cgroup, command …
    local name=$1 group=$2
    shift 2
    mkdir -p "$logs" "$state/pids"
    (
        join_cgroup "$group"
        exec setsid "$@"
    ) >"$logs/$name.log" 2>&1 </dev/null 9>&- &
    echo "$!" >"$state/pids/$name"
    disown
}

pid_of() { cat "$state/pids/$1"; } # name

runs() { [[ -e $state/pids/$1 ]] && kill -0 "$(pid_of "$1")" 2>/dev/null; } # name

# Waits for a program to be ready, and says what its log says if it ends instead.
await_program() { # name, seconds, command …
    local name=$1 end=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        runs "$name" || fail "$name has ended: $(tail -n 5 "$logs/$name.log")" "all of its log: $logs/$name.log"
        ((SECONDS < end)) || fail "$name is not ready in time: $(tail -n 5 "$logs/$name.log")" "all of its log: $logs/$name.log"
        sleep 0.1
    done
}

# A process that does nothing in namespaces of its own: they live as long as any process in them.
start_holder() { # name, cgroup, options of unshare …
    local name=$1 group=$2
    shift 2
    start "$name" "$group" unshare "$@" sleep infinity
    await_program "$name" 10 has_own_namespaces "$name"
}

has_own_namespaces() { # name
    [[ $(readlink "/proc/$(pid_of "$1")/ns/net") != "$(readlink /proc/self/ns/net)" && $(cat "/proc/$(pid_of "$1")/comm") == sleep ]]
}
