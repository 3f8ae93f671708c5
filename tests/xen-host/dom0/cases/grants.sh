# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest maps pages of another domain, as a backend does: entries that name foreign frames come
# and go.
granted 192 "memory=32:300"
track grants.json --rounds 20 --interval 250
show grants.json
some grants.json entries_changed
is_off
