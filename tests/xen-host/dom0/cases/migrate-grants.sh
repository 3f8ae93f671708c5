# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that maps pages of another domain, as a backend does. What a page table maps at
# suspend is an error, and the source runs on; what is released before does no harm.
granted 128 "memory=12:500"
tells g hold
says g 'GRANTS held' 30
fails migrate g ''
tail -n 1 g.json | grep '"kind":"foreign-pte"'
grep 'p2mtrack: error: foreign-pte: ' g.log
goes_on g
is_off
echo "SHOW mapped at suspend: foreign-pte, and the source runs on"
tells g cycle
(sleep 2; tells g release) &
migrate g '--rate 32MiB'
wait $!
arrived g
echo "SHOW released before the suspend: good"
