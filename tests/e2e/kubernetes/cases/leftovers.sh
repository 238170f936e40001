# Nothing of a bed is left on the machine. Sourced by 'test', after 'down'.
# shellcheck shell=bash

down_leaves_nothing() {
    local left
    [[ ! -e $state ]] || fail "$state is still there"
    left=$(find /sys/fs/cgroup -maxdepth 3 -type d -name "$cgroup")
    [[ -z $left ]] || fail "these cgroups are still there: $left"
    left=$(grep -l "$state" /proc/[0-9]*/mountinfo 2>/dev/null | head -n 3 || true)
    [[ -z $left ]] || fail "these processes still see mounts of the bed: $left"
    left=$(ip -o link | grep -E ': (bed|to-[abw][0-9]+)[:@]' || true)
    [[ -z $left ]] || fail "these links are still there: $left"
    left=$(losetup --list --noheadings --raw --output NAME,BACK-FILE | grep /var/lib/lockstep/devices || true)
    [[ -z $left ]] || fail "these loop devices are still there: $left"
    left=$(find /dev/lockstep -xtype l 2>/dev/null || true)
    [[ -z $left ]] || fail "these names of devices are still there: $left"
}
