# What the scripts of the machine share: a cluster of three daemons, its volume's device, and daemons that are killed.
set -eu
cluster=/var/tmp/cluster

# The shell would take its own, which can do less.
dd() { /bin/dd "$@"; }
cmp() { /bin/cmp "$@"; }
blkdiscard() { /bin/blkdiscard "$@"; }

fail() { echo "FAILED: $*"; dmesg | tail -n 30; tail -n 20 $cluster/a1.log; exit 1; }
say() { echo "== $(cut -d' ' -f1 /proc/uptime) $*"; }
ls_() { lockstep --dir $cluster "$@"; }

# Waits for a command to succeed, so many seconds.
await() { # seconds, words, command
    local left=$(($1 * 5)) words=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "$words did not happen"
        sleep 0.2
    done
}

up() {
    lockstep --dir $cluster up --detach --nodes-per-site 1 --pool-size 768MiB >/dev/null 2>&1 || fail "no cluster"
}

field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" | head -n 1; }

# Attaches volume $1 to node $2 by front-end $3; $device is what the kernel calls it.
attach() {
    local left=150 link=
    while :; do
        ls_ volume attach $1 --node $2 --front-end $3 -o json >/tmp/attached || fail "attaching $1"
        link=$(field device </tmp/attached)
        [ "$link" = null ] || [ -z "$link" ] || break
        left=$((left - 1))
        [ $left -gt 0 ] || fail "$1 has no device"
        sleep 0.2
    done
    [ "$link" = /dev/lockstep/$1 ] || fail "the device of $1 is $link"
    device=$(readlink $link)
    block=/sys/block/${device#/dev/}
    [ -b "$device" ] || fail "$device is no block device"
}

epoch() { ls_ volume show $1 -o json | field epoch; }

# Whether volume $1 is open on a1 in another epoch than $2.
open_again() { [ "$(ls_ volume show $1 -o json | field primary)" = a1 ] && [ "$(epoch $1)" != "$2" ]; }

kill_daemon() { # node
    local pid
    read -r pid _ <$cluster/$1.pid
    kill -9 $pid
    while [ -e /proc/$pid ]; do sleep 0.05; done
}

start_daemon() { # node
    lockstep daemon --dir $cluster/$1 >>$cluster/$1.log 2>&1 &
    local pid=$!
    echo "$pid $(sed 's/.*) //' /proc/$pid/stat | cut -d' ' -f20)" >$cluster/$1.pid
}

# Nothing of what the kernel has said is an I/O error.
kernel_is_content() {
    if dmesg | grep -E 'I/O error|EXT4-fs (error|warning)|Buffer I/O|lost async page write|hung task'; then
        fail "the kernel has seen errors"
    fi
}
