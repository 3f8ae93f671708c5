# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that publishes only the 3-level tree, while its balloon moves.
VCPUS=2 shared moved 128 128 "memory=12:500"
says moved 'MEMORY ok' 60
domain=$(xl domid moved)
flavour $domain tree
size=$(($(xenstore-read /local/domain/$domain/memory/target) / 1024))
(for less in 20 35 10 0; do sleep 1; target moved $((size - less)); done) &
migrate moved '--rate 32MiB'
wait $!
arrived moved
balloons moved $size $leaked
