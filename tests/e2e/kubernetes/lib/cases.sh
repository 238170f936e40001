# Running test cases and counting them, in words that tests/run reads. Sourced; needs say.sh.
# shellcheck shell=bash

passed=0 failed=0

# Runs one case in a shell of its own: what fails in it fails the case, and not those after it.
run_case() { # function, named for what it promises
    local began=$EPOCHREALTIME status
    printf 'test %s ... \n' "$1"
    set +e
    (
        set -euo pipefail
        "$1"
    )
    status=$?
    set -e
    if ((status == 0)); then
        passed=$((passed + 1))
        printf 'test %s ... ok (%s s)\n' "$1" "$(seconds_since "$began")"
    else
        failed=$((failed + 1))
        printf 'test %s ... FAILED\n' "$1"
    fi
}

report_cases() {
    printf 'test result: %s. %d passed; %d failed\n' "$( ((failed == 0)) && echo ok || echo FAILED)" "$passed" "$failed"
    ((failed == 0 && passed > 0))
}

# A figure of the run, for people and for docs/kubernetes.md.
figure() { # what, value
    printf '  figure: %s: %s\n' "$1" "$2"
}
