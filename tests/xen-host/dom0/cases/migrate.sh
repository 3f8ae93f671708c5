# SPDX-License-Identifier: MIT OR Apache-2.0
# Whole migrations of a guest that writes; the destination is compared with all frames of the
# domain. Then with frames whose m2p has another pfn, which ends in an error.
guest g 128 128 "memory=8:2500:keep"
says g 'MEMORY ok' 60
xen-migrate $domain plain
target g 112
sleep 3
xen-migrate $domain stale
is_off
