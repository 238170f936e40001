# The bed's cgroups, with version 1 (a hierarchy a controller) and version 2 (one hierarchy). Sourced; needs say.sh.
# shellcheck shell=bash

cgroup_root=/sys/fs/cgroup

cgroup_is_v2() { [[ -e $cgroup_root/cgroup.controllers ]]; }

# The hierarchies in which kubelet and runc make directories.
cgroup_hierarchies() {
    if cgroup_is_v2; then
        echo "$cgroup_root"
    else
        find "$cgroup_root" -mindepth 1 -maxdepth 1 -type d
    fi
}

# The hierarchy in which every process of the bed can be found.
cgroup_processes() {
    if cgroup_is_v2; then
        echo "$cgroup_root"
    else
        echo "$cgroup_root/pids"
    fi
}

# Makes a cgroup, and those above it, in every hierarchy.
make_cgroup() { # name, slashes inside
    local hierarchy path part parts
    IFS=/ read -ra parts <<<"$1"
    while read -r hierarchy; do
        path=$hierarchy
        for part in "${parts[@]}"; do
            if cgroup_is_v2; then
                sed 's/[^ ]*/+&/g' "$path/cgroup.controllers" >"$path/cgroup.subtree_control" 2>/dev/null ||
                    fail "the controllers of $path cannot be handed on" "it has processes of its own: run this outside it"
            fi
            path+=/$part
            mkdir -p "$path"
            # Version 1: a cpuset is born empty, and nothing can run in it.
            if [[ -e $path/cpuset.cpus && ! -s $(dirname "$path")/cgroup.controllers ]]; then
                cat "$(dirname "$path")/cpuset.cpus" >"$path/cpuset.cpus"
                cat "$(dirname "$path")/cpuset.mems" >"$path/cpuset.mems"
            fi
        done
    done < <(cgroup_hierarchies)
}

# Moves the calling shell into a cgroup.
join_cgroup() { # name
    echo "$BASHPID" >"$(cgroup_processes)/$1/cgroup.procs"
}

# The processes of a cgroup and of those below it.
processes_of() { # name
    local top
    top=$(cgroup_processes)/$1
    [[ ! -d $top ]] || find "$top" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un
}

has_no_processes() { [[ -z $(processes_of "$1") ]]; } # name

kill_once() { # name
    local pids
    mapfile -t pids < <(processes_of "$1")
    ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || true
    has_no_processes "$1"
}

# Kills all that runs in a cgroup, also what is started meanwhile. A process that waits for a disk ends when
# the server of that disk has.
kill_cgroup() { # name
    holds_within 30 kill_once "$1" ||
        fail "these processes of $1 do not end: $(processes_of "$1" | tr '\n' ' ')" "'cat /proc/PID/stack' says what they wait for"
}

# Removes a cgroup and those below it from every hierarchy. It must have no processes.
remove_cgroup() { # name
    local hierarchy
    while read -r hierarchy; do
        [[ -d $hierarchy/$1 ]] || continue
        # The kernel takes a moment to let go of processes that have ended.
        holds_within 10 remove_tree "$hierarchy/$1" || fail "the cgroup $hierarchy/$1 cannot be removed" "'find $hierarchy/$1 -name cgroup.procs' shows who is in it"
    done < <(cgroup_hierarchies)
}

remove_tree() { # directory
    [[ ! -d $1 ]] || find "$1" -depth -type d -exec rmdir {} \; 2>/dev/null
    [[ ! -d $1 ]]
}
