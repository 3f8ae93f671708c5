# SPDX-License-Identifier: MIT OR Apache-2.0
# A whole migration of a guest with pfns that share frames: what was sent as a copy at a checkpoint
# is sent again at the end.
guest g 128 128 "memory=8:2500:keep"
says g 'MEMORY ok' 60
target g 112
sleep 3
xen-migrate $domain alias
words=$(grep -c 'MEMORY ok' $(console g))
sleep 3
[ "$(grep -c 'MEMORY ok' $(console g))" -gt $words ] # it runs on
is_off
