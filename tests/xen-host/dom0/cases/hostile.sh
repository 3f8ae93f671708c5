# SPDX-License-Identifier: MIT OR Apache-2.0
# While it is tracked, the guest writes invalid values to the p2m fields of its shared_info, and
# restores them: an error that names the value or none at all, never a miss, a panic or a hang; and
# afterwards everything is as before.
shared idle 192 192 ""
count=0xc10 root=0xc28 address=0xc30 generation=0xc38
for poke in $count:0 $count:0x8000000001 $count:0xffffffffffffffff $root:0xfffffffffffff000 $root:0x1000 \
    $address:0xffffffffffffffff $address:0x123456789000 $generation:1 $generation:0xffffffffffffffff; do
    name=poke-$poke status=0
    (
        sleep 1
        old=$(flavour $domain poke ${poke%:*} ${poke#*:})
        sleep 1
        flavour $domain poke ${poke%:*} $old
    ) >/dev/null &
    track $name.json --rounds 30 --interval 60 2>$name.err || status=$?
    wait
    echo "$name: status $status $(cat $name.err)"
    [ $status = 0 ] || [ $status = 3 ]
    fails grep -q panicked $name.err
    is_off
done
echo "SHOW $(grep -h -c . poke-*.err | awk '{n += $1 > 0} END {print n}') of 9 runs ended in an error, such as:" \
    "$(cat poke-*.err | tail -n 1)"
track after.json --rounds 4 --interval 60
show after.json
is_off
