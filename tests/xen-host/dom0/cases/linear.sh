# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that publishes only the linear list.
guest g 256 256 "memory=48:500 churn=65536:0:4096:30000" -p
flavour $domain linear
xl unpause g
says g 'GUEST churns' 60
sleep 1
track linear.json --rounds 14 --interval 300
show linear.json
some linear.json entries_changed
is_off
