# SPDX-License-Identifier: MIT OR Apache-2.0
# What it costs to map pages and to let go of them. Not among the cases that are run by default: it
# measures, and passes if it can.
shared idle 192 192 ""
xen-maps $domain | sed 's/^/SHOW /'
