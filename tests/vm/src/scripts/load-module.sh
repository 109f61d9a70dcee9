#!/bin/sh
# load-module NAME: loads a module that the machine was offered, and what it needs before it.
while read -r module; do
    [ -e "/sys/module/$module/initstate" ] || insmod "/modules/$module.ko" || exit 1
done <"/modules/$1.order"
