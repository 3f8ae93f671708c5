# SPDX-License-Identifier: MIT OR Apache-2.0
# Each port against what is known of the guest: types, owners, m2p, unlogged writers of a suspended
# guest, maps given back.
shared idle 192 192 ""
xen-ports $domain look
xen-ports $domain look | sed -n 's/^/SHOW /p' | tail -n 3
# A kernel without memory that no hypercall faults on: locked pages do, and the run is the same.
trap '[ ! -e /dev/xen/away ] || mv /dev/xen/away /dev/xen/hypercall' EXIT
mv /dev/xen/hypercall /dev/xen/away
track without.json --rounds 4 --interval 100
mv /dev/xen/away /dev/xen/hypercall
show without.json
is_off
