# SPDX-License-Identifier: MIT OR Apache-2.0
# Whole migrations of a guest that writes; the destination is compared with all that Xen says the guest has. Then with frames
# of which the m2p says something else, which ends in an error, and with pfns that share a frame, which are sent again.
guest g 128 128 "memory=8:2500:keep"
says g 'MEMORY ok' 60
xen-migrate $domain plain
target g 112
sleep 3
xen-migrate $domain stale
xen-migrate $domain alias
words=$(grep -c 'MEMORY ok' $(console g))
sleep 3
[ "$(grep -c 'MEMORY ok' $(console g))" -gt $words ] # it runs on
is_off
