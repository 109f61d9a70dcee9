#!/bin/sh
# result NAME VALUE: hands a value to the host. Without VALUE, takes it from the input.
name=$1
if [ $# -gt 1 ]; then printf '%s\n' "$2"; else cat; fi |
    sed -e ':a' -e '$!{N;ba' -e '}' -e 's/\\/\\\\/g' -e 's/\n/\\n/g' |
    { IFS= read -r value; printf 'RESULT %s=%s\n' "$name" "$value" >/dev/ttyS1; }
