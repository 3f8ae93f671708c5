# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that stands still, migrated at once: PTEs with frames of the control domain of which the
# m2p says the guest's pfn; and p2ms that lead nowhere, whose books do not balance.
granted 128 "memory=8:300"
turn=0
until xen-migrate $domain foreign; do # grants may be given back just then
    [ $turn -lt 5 ]
    turn=$((turn + 1))
done
xen-migrate $domain nowhere
is_off
