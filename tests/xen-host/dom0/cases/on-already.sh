# SPDX-License-Identifier: MIT OR Apache-2.0
# Log-dirty is on, switched on by an unknown process: refused, unless --take-over is given.
shared idle 192 192 ""
xen-ports $domain on
fails xen-ports $domain on 2>/dev/null
status=0
track refused.json --rounds 2 2>refused.err || status=$?
cat refused.err
[ $status = 2 ]
grep -q 'on already' refused.err
# It was not touched: it is still on.
fails xen-ports $domain on 2>/dev/null
fails track again.json --rounds 2 2>/dev/null
track taken.json --rounds 4 --take-over
show taken.json
is_off
echo "SHOW $(tail -n 1 refused.err)"
