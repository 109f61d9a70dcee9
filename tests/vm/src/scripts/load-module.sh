#!/bin/sh
# load-module NAME [PARAMETER…]: loads a module that the machine was offered, and what it needs before it.
name=$1
shift
while read -r module; do
    parameters=
    [ "$module" != "$name" ] || parameters=$*
    [ -e "/sys/module/$module/initstate" ] || insmod "/modules/$module.ko" $parameters || exit 1
done <"/modules/$name.order"
