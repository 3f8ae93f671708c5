# SPDX-License-Identifier: MIT OR Apache-2.0
# Checkpoints of a guest, which the stock restore applies; then xl is killed, and the backup goes on.
# The source is never resumed by our helper: here it is destroyed, as if its host were gone.
checkpoints=${checkpoints:-10}
guest g 128 128 "memory=12:500"
says g 'MEMORY ok' 60
helped g '' xl -vvv remus -F -n -d -i 200 -s "" g "exec xl -vvv migrate-receive -r 2>/root/receive.log" &
turn=0
until [ $(grep -c 'All records processed' /root/receive.log 2>/dev/null) -ge $checkpoints ]; do
    [ $turn -lt $((checkpoints * 50)) ] || { tail g.log /root/receive.log; false; }
    sleep 0.1
    turn=$((turn + 1))
done
kill -KILL $(running 'xl -vvv remus')
turn=0
until grep -q '"kind":"toolstack-gone"' g.json && ! running p2mtrack-save-helper | grep .; do
    [ $turn -lt 300 ] || { ps -o pid,args | grep -E 'helper|xl'; false; }
    sleep 0.1
    turn=$((turn + 1))
done
domain=$(xl domid g)
is_off
xl destroy g
until xl list | grep -q 'g--incoming .* [r-][b-]----'; do sleep 0.1; done
xl rename g--incoming g
touch /root/g.moved
domain=$(xl domid g)
goes_on g
held=$(xen-ports $domain frames)
[ $held = 32768 ]
balloons g 128
echo "SHOW remus: $(grep -c 'All records processed' /root/receive.log) checkpoints, failed over; pages $(field g.json pages)"
