# SPDX-License-Identifier: MIT OR Apache-2.0
# A suspended guest, migrated in one round: PTEs with frames of the control domain whose m2p has the
# guest's pfn; and p2ms that lead nowhere, whose books do not balance.
granted 128 "memory=8:300"
turn=0
until xen-migrate $domain foreign; do # grants may be unmapped at that time
    [ $turn -lt 5 ]
    turn=$((turn + 1))
done
xen-migrate $domain nowhere
is_off
