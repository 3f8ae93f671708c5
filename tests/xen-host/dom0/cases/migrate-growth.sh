# SPDX-License-Identifier: MIT OR Apache-2.0
# The p2m grows while the guest is migrated. Its target and its limit are raised before: the
# destination's limit is read then. The guest is paused until the migration has begun. The stock
# helper gives up; the guest runs on.
VCPUS=2 shared moved 128 128 "memory=12:500"
says moved 'MEMORY ok' 60
grows() { # HELPER MIB: to so many, while it is migrated
    xl pause moved
    xl mem-max moved $2
    target moved $2
    (sleep 2; xl unpause moved) &
    $1
    wait $!
}
ours() { migrate moved '--rate 64MiB'; }
stock() { observed moved stock; }
grows stock 160
domain=$(xl domid moved)
small=$(xen-ports $domain frames)
grows ours 224
arrived moved
[ $held -ge $((small + 10000)) ] || { echo "it did not grow: $small, then $held"; false; }
echo "SHOW grown from $small frames to $held"
balloons moved 224 $leaked
