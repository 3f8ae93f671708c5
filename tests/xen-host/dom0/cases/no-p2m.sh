# SPDX-License-Identifier: MIT OR Apache-2.0
# PV grub publishes no p2m: a named error, and log-dirty is off again.
KERNEL=/host/grub-x86_64-xen.bin guest g 64 64 ""
sleep 4
status=0
track grub.json --rounds 8 --interval 100 2>grub.err || status=$?
cat grub.err
[ $status = 3 ]
grep -q 'publishes no p2m' grub.err
[ "$(xen-ports $domain state)" = off ]
[ -z "$(ls /run/p2mtrack)" ]
echo "SHOW $(cat grub.err)"
status=0
p2mtrack save $domain --out grub.xl --report save.json 2>save.err || status=$?
cat save.err
[ $status = 2 ]
grep -q '"source_running":true,"error":{"kind":"no-p2m"' save.json
# No guest, and the control domain itself.
status=0
p2mtrack track 999 --rounds 1 2>none.err || status=$?
cat none.err
[ $status = 2 ]
grep -q 'domain is gone' none.err
status=0
p2mtrack track 0 --rounds 1 2>self.err || status=$?
[ $status = 2 ]
