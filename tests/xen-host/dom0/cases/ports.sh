# SPDX-License-Identifier: MIT OR Apache-2.0
# Each port against known facts about the guest: types, owners, m2p, unlogged writers of a suspended
# guest, unmapping.
shared idle 192 192 ""
xen-ports $domain look
xen-ports $domain look | sed -n 's/^/SHOW /p' | tail -n 3
# A kernel without /dev/xen/hypercall (memory for hypercalls): locked pages work as well.
trap '[ ! -e /dev/xen/away ] || mv /dev/xen/away /dev/xen/hypercall' EXIT
mv /dev/xen/hypercall /dev/xen/away
track without.json --rounds 4 --interval 100
mv /dev/xen/away /dev/xen/hypercall
show without.json
is_off
