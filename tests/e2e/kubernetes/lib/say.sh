# What the scripts here say to people, and how they wait. Sourced; everything goes to standard error, because
# standard output is for results.
# shellcheck shell=bash

say() { # words
    printf '%s\n' "$*" >&2
}

# Ends the script with what is wrong and what to do about it.
fail() { # what is wrong [, what to do]
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    [[ -z ${2-} ]] || printf '  %s\n' "$2" >&2
    exit 1
}

# Between 'step' and 'done_step' lies something that takes a while.
step() { # what begins
    step_began=$EPOCHREALTIME
    printf '  %s ... ' "$*" >&2
}

done_step() {
    printf '%s s\n' "$(seconds_since "$step_began")" >&2
}

# Seconds since an $EPOCHREALTIME, with one decimal.
seconds_since() {
    local now=$EPOCHREALTIME
    local tenths=$(((${now/[.,]/} - ${1/[.,]/}) / 100000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# Asks again and again whether something holds. False when the time is over.
holds_within() { # seconds, command …
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# As holds_within, and the end of the script when the time is over.
await() { # seconds, what is awaited, what to do if it does not come, command …
    holds_within "$1" "${@:4}" || fail "$2: not within $1 s" "$3"
}
