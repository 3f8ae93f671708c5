# SPDX-License-Identifier: MIT OR Apache-2.0
# The balloon goes down and up in small steps, in a guest of two processors.
VCPUS=2 guest g 256 256 "memory=48:500 churn=65536:0:1024:10000"
says g 'GUEST churns' 60
sleep 1
track balloon.json --rounds 20 --interval 300 --record balloon.p2mtrace
show balloon.json
some balloon.json entries_changed
some balloon.json beyond_log_dirty
# The trace of it says the same again.
p2mtrack replay --check --json balloon.p2mtrace >replay.json
[ "$(field replay.json missed)" = 0 ]
some replay.json entries_changed
is_off
