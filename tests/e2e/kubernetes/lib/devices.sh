# The block devices of nodes: a loop device on a file of a FUSE mount. The kernel is shared by all nodes, so what
# would be gone with a real machine's kernel is removed here. Sourced; needs say.sh.
# shellcheck shell=bash

# Notes the FUSE connections of a node, while its mounts can be read: by them its loop devices are told from
# those of anybody else on the machine.
note_devices() { # name of a node
    local holder
    [[ -e $state/pids/node-$1 ]] || return 0
    holder=$(pid_of "node-$1")
    # Its number may be another process's by now, with mounts that are not the bed's.
    processes_of "$(node_group "$1")" | grep -qx "$holder" || return 0
    awk '{ for (i = 7; i < NF; i++) if ($i == "-" && $(i + 1) ~ /^fuse/) print $3 }' "/proc/$holder/mountinfo" | sort -u >>"$state/connections"
}

# Loop devices on noted connections, one a line.
noted_devices() {
    [[ ! -e $state/connections ]] || losetup --list --noheadings --raw --output NAME,BACK-MAJ:MIN |
        awk 'NR == FNR { ours[$1]; next } $2 in ours { print $1 }' "$state/connections" -
}

has_no_noted_devices() { [[ -z $(noted_devices) ]]; }

# They go by themselves when nobody has them open any more; one that does not is detached.
remove_noted_devices() {
    local device link
    if ! holds_within 5 has_no_noted_devices; then
        while read -r device; do
            losetup --detach "$device" || true
        done < <(noted_devices)
        holds_within 10 has_no_noted_devices || fail "these loop devices of the bed stay: $(noted_devices | tr '\n' ' ')" "'losetup --list' shows them, 'fuser -m' who uses them"
    fi
    # A name that leads to nothing is nobody's, whoever made it.
    for link in /dev/lockstep/*; do
        [[ ! -L $link ]] || losetup "$(readlink "$link")" >/dev/null 2>&1 || rm -f -- "$link"
    done
    rmdir /dev/lockstep 2>/dev/null || true
    rm -f "$state/connections"
}
