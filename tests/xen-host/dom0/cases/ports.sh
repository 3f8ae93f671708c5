# SPDX-License-Identifier: MIT OR Apache-2.0
# Each port against what is known of the guest: types, owners, m2p, unlogged writers of a suspended guest, maps given back.
shared idle 192 192 ""
xen-ports $domain look
xen-ports $domain look | sed -n 's/^/SHOW /p' | tail -n 3
