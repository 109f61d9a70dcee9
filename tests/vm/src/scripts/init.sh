#!/bin/busybox sh
# The first process of the guest. `/dev/ttyS1` carries the messages of results.rs.

/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin

finish() {
    echo "$1" >/dev/ttyS1
    # Not `poweroff -f` alone: it would sync, and after an oops a file system may never answer.
    poweroff -n -f
}

setup() {
    mount -t debugfs debugfs /sys/kernel/debug &&
        mount -t tracefs tracefs /sys/kernel/tracing &&
        ln -s /proc/self/fd /dev/fd &&
        stty -F /dev/ttyS1 raw 115200 || return
    while read -r module; do
        insmod "/modules/$module.ko" || return
    done </modules/order
}

cd /run
setup 2>/setup-errors || finish "FAILED $(tr '\n' ' ' </setup-errors)"
sh -eu /script </dev/null
finish "STATUS $?"
