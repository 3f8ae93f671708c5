# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that publishes only the 3-level tree: its balloon, and its growth.
guest g 192 192 "memory=48:500"
says g 'MEMORY ok' 60
flavour $domain tree
xl mem-max g 448
(
    for mib in 160 128 176 192 256 320 256; do
        sleep 1
        target g $mib
    done
) &
track tree.json --rounds 24 --interval 300 --record tree.p2mtrace
show tree.json
some tree.json entries_changed
some tree.json leaves_new
tail -n 1 tree.json | grep -q '"structure":{[^}]*"dirty":[1-9]'
p2mtrack replay --check --json tree.p2mtrace >replay.json
[ "$(field replay.json missed)" = 0 ]
is_off
