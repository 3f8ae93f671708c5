# SPDX-License-Identifier: MIT OR Apache-2.0
# A second tracker of the same guest gets an error that names the first one, and does it no harm.
shared idle 192 192 ""
(for mib in 176 160 176 192; do sleep 1; target idle $mib; done) &
track first.json --seconds 7 --interval 250 &
first=$!
sleep 2
status=0
p2mtrack track $domain --rounds 1 --take-over 2>second.err || status=$?
cat second.err
[ $status = 2 ]
grep -q "tracked by process [0-9]" second.err
wait $first
show first.json
some first.json entries_changed
is_off
echo "SHOW $(cat second.err)"
