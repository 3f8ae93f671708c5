# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest maps pages of another domain, as a backend does: entries that name foreign frames come and go.
# Grants come first, so that the number of the guest has to be known before it is there.
guest probe 128 128 "" -p
next=$((domain + 1))
xl destroy probe
grant $next 24 >refs &
sleep 1
guest g 192 192 "memory=32:300 grants=0:$(cat refs)"
[ $domain = $next ]
says g 'GRANTS mapped' 60
track grants.json --rounds 20 --interval 250
show grants.json
some grants.json entries_changed
is_off
