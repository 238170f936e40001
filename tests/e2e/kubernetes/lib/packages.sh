# What the bed needs of the machine. Sourced; needs say.sh.
# shellcheck shell=bash

# A command, and the Debian package that brings it.
bed_packages=(
    "containerd containerd"
    "runc runc"
    "/usr/lib/cni/ptp containernetworking-plugins"
    "/bin/busybox busybox-static"
    "nft nftables"
    "conntrack conntrack"
    "ethtool ethtool"
    "socat socat"
    "ip iproute2"
    "openssl openssl"
    "mkfs.ext4 e2fsprogs"
    "mkfs.xfs xfsprogs"
    "jq jq"
)

install_bed_packages() {
    local line program package missing=()
    for line in "${bed_packages[@]}"; do
        read -r program package <<<"$line"
        command -v "$program" >/dev/null || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || fail "these Debian packages are missing here: ${missing[*]}" "install what brings the same programs"
    step "installing ${missing[*]}"
    apt_install "${missing[@]}" || { apt-get update -qq && apt_install "${missing[@]}"; } ||
        fail "apt-get cannot install ${missing[*]}" "its words are above"
    done_step
}

apt_install() { # packages
    DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -qq --no-install-recommends "$@" >&2
}
