# SPDX-License-Identifier: MIT OR Apache-2.0
# An idle guest with unmodified Linux: nothing changes, and no change is reported.
shared idle 192 192 ""
sleep 1
track idle.json --rounds 12 --interval 250 --prom idle.prom
show idle.json
grep -q '^p2mtrack_rounds_total{domid="'$domain'"} 12' idle.prom
is_off
