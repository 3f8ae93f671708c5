# SPDX-License-Identifier: MIT OR Apache-2.0
# xl save, with the guest running on and without, and what xl restore makes of it; xl migrate --debug.
VCPUS=2 shared moved 128 128 "memory=12:500"
says moved 'MEMORY ok' 60
domain=$(xl domid moved)
helped kept '' xl -v save -c moved kept.xl
grep -q 'Frames: .* 100%' kept.log
grep -q 'End of stream' kept.log
goes_on moved
is_off
p2mtrack stream check kept.xl >kept.check || { head kept.check; false; }
rm kept.xl
helped gone '' xl -v save moved gone.xl
rm -f /root/moved.moved
restored moved gone.xl
rm gone.xl
fails grep '"event":"round"' gone.json
tail -n 1 gone.json | grep -q '"live":false,"verdict":"not-live"'
migrate moved '' --debug
arrived moved
grep -q "Verify mode enabled" /root/receive.log
echo "SHOW saved, kept and restored; verified without a mismatch"
