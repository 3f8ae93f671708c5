# SPDX-License-Identifier: MIT OR Apache-2.0
# Memory is added past the first max_pfn: the p2m grows while it is tracked. (With a larger maxmem
# in the configuration the p2m would have its final size from the start.)
shared grown 192 192 "memory=48:500"
says grown 'MEMORY ok' 60
xl mem-max grown 512
(
    for mib in 256 384 448; do
        sleep 2
        target grown $mib
    done
) &
track growth.json --seconds 10 --interval 300 --record growth.p2mtrace
show growth.json
some growth.json leaves_new
some growth.json structure_events
some growth.json entries_changed
tail -n 1 growth.json | grep -q '"generation":[1-9]'
tail -n 1 growth.json | grep -q '"pfn_count":[1-9]'
p2mtrack replay --check --json growth.p2mtrace >replay.json
[ "$(field replay.json missed)" = 0 ]
some replay.json leaves_new
is_off
