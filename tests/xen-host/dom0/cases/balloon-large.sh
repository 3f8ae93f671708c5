# SPDX-License-Identifier: MIT OR Apache-2.0
# The balloon goes down and up in large steps, and further than in `balloon`.
shared idle 192 192 ""
(for mib in 112 192 96 192; do sleep 1; target idle $mib; done) &
track large.json --rounds 18 --interval 300
show large.json
some large.json entries_changed
is_off
