# The images of the bed: there is no registry here, so each is made from a program that is there, and imported into
# every node's containerd. Sourced; needs $here and $programs.
# shellcheck shell=bash

# What a pod's namespaces are held by.
pause_image=lockstep.test/pause:1
# A shell for test pods.
busybox_image=lockstep.test/busybox:1

# An image with one program, that is run when nothing else is said.
make_image() { # name, program, its path inside, file
    local root
    root=$(mktemp -d "$state/image.XXXXXX")
    chmod 755 "$root"
    install -D -m 755 "$2" "$root$3"
    mkdir -m 1777 "$root/tmp"
    "$here/../../../deploy/image/archive" "$root" "$1" "$4" "${@:5}"
    rm -rf "$root"
}

make_base_images() {
    local root busybox
    mkdir -p "$state/images"
    busybox=$(realpath "$(command -v busybox)")
    # Its shell finds the other programs in itself, without links.
    make_image "$pause_image" "$busybox" /bin/busybox "$state/images/pause.tar" /bin/busybox sleep 2147483647
    root=$(mktemp -d "$state/image.XXXXXX")
    chmod 755 "$root"
    install -D -m 755 "$busybox" "$root/bin/busybox"
    mkdir -m 1777 "$root/tmp"
    local applet
    for applet in $(busybox --list); do
        [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
    done
    "$here/../../../deploy/image/archive" "$root" "$busybox_image" "$state/images/busybox.tar" sh
    rm -rf "$root"
}

import_base_images() { # node
    import_image "$1" "$state/images/pause.tar"
    import_image "$1" "$state/images/busybox.tar"
}

import_image() { # node, file
    in_node "$1" ctr --namespace k8s.io images import --no-unpack "$2" >/dev/null ||
        fail "the image $2 cannot be imported on $1" "'ctr' says why above; containerd's log is $logs/containerd-$1.log"
}
