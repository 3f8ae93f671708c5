# SPDX-License-Identifier: MIT OR Apache-2.0
# What the stock helper makes of a guest whose balloon goes down and up all the time. Not among the
# cases that are run by default.
guest g 128 128 "memory=12:500 churn=32768:0:1024:10000"
says g 'GUEST churns' 60
observed g stock
domain=$(xl domid g)
echo "SHOW stock helper: held $(xen-ports $domain frames) entries $(xen-ports $domain entries)"
