# SPDX-License-Identifier: MIT OR Apache-2.0
# What is refused before anything is touched. Saves that are cut: full disk, closed pipe, TERM and KILL, while the guest runs and while it is
# suspended; a guest that crashes, or is destroyed while it is suspended. The source runs on where
# it exists, log-dirty is off, no process is left, and each cut has its kind.
VCPUS=2 shared saved 128 128 "memory=12:500"
says saved 'MEMORY ok' 60
mkfifo stall
stalled() { # NAME: a save into a pipe that nobody empties before there is a file "go"
    rm -f go
    (exec 3<stall && until [ -e go ]; do sleep 0.1; done && cat <&3 >/dev/null) &
    reader=$!
    p2mtrack save $domain --out fd:4 --report $1.json 4>stall >/dev/null 2>$1.err &
    saver=$!
}
slow() { # NAME RATE: a live save that takes its time
    p2mtrack save $domain --live --rate $2 --out slow.xl --report $1.json >/dev/null 2>$1.err &
    saver=$!
    turn=0
    until [ "$(xen-ports $domain state)" = on ]; do
        [ $turn -lt 300 ]
        sleep 0.1
        turn=$((turn + 1))
    done
}
suspended() { # waits until $domain is
    turn=0
    until xl list $domain | grep -q -- ' ---s'; do
        [ $turn -lt 600 ] || { echo "not suspended"; return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
}
ended() { # NAME KIND: the save ended with status 3 and that kind, and nothing of it is left
    status=0
    wait $saver || status=$?
    cat $1.err
    grep "\"kind\":\"$2\"" $1.json || { cat $1.json; return 1; }
    [ $status = 3 ]
    kill $reader 2>/dev/null || true
    [ -z "$(ls /run/p2mtrack)" ]
    [ -z "$(running p2mtrack)" ]
    [ ! -e slow.xl ]
    echo "SHOW $1: $2"
}
runs() { # the guest does, and log-dirty is off
    goes_on saved
    is_off
}
without() { # STATUS KIND OPTIONS: a save ends so, and there is no stream
    expected=$1 kind=$2 status=0
    shift 2
    p2mtrack save $domain --out without.xl --report without.json "$@" >/dev/null 2>without.err || status=$?
    tail -n 1 without.json | grep "\"kind\":\"$kind\""
    [ $status = $expected ]
    [ ! -e without.xl ]
}
reader=
xenstore-write /local/domain/0/backend/pci/$domain/0 ''
without 2 pci-device --live
xenstore-rm /local/domain/0/backend/pci/$domain
xen-ports $domain on
without 2 log-dirty-on --live
without 3 unconverged --live --take-over --downtime 0ms --dirty-pages 0 --max-rounds 2 --unconverged abort
p2mtrack track $domain >/dev/null &
tracker=$!
sleep 1
without 2 locked
kill $tracker
wait $tracker
echo '{"b_info":{"target_memkb":65536}}' >small.json
without 2 receiver-limit --config small.json
xl pause saved
without 3 suspend-late --suspend-timeout 300ms
xl unpause saved
runs
echo "SHOW refused, unconverged and late: each has its kind"
mkdir -p small
mount -t tmpfs -o size=8m small small
p2mtrack save $domain --live --out small/g.xl --report full.json >/dev/null 2>full.err &
saver=$!
ended full sink
grep -q 'No space left' full.err
[ -z "$(ls small)" ]
umount small
{ p2mtrack save $domain --out - --report closed.json 2>closed.err || echo $? >closed.status; } | head -c 100000 >/dev/null
[ "$(cat closed.status)" = 3 ]
grep -q '"kind":"sink"' closed.json
slow term 2MiB
kill -TERM $saver
ended term cancelled
stalled term-suspended
suspended
kill -TERM $saver
ended term-suspended cancelled
runs
for name in kill kill-suspended; do
    if [ $name = kill ]; then
        slow $name 2MiB
    else
        stalled $name
        suspended
    fi
    guard=$(running p2mtrack guard) # has no descriptor of the stream: a receiver would wait for it
    [ -n "$guard" ]
    ls -l /proc/$guard/fd >fds
    fails grep -E 'stall|deleted' fds
    kill -KILL $saver
    wait $saver || true
    kill $reader 2>/dev/null || true
    runs
    cat $name.err
    [ -z "$(running p2mtrack)" ]
done
# A stream that its reader has not taken is not complete: the source is not left suspended.
rm -f go
(exec 3<stall && head -c 134460000 <&3 >/dev/null && until [ -e go ]; do sleep 0.1; done) &
reader=$!
p2mtrack save $domain --after leave --format libxc --out fd:4 --report leave.json 4>stall >/dev/null 2>leave.err &
saver=$!
suspended
sleep 2
kill -TERM $saver
ended leave cancelled
runs
grep -q 'its tracker died, log-dirty is switched off' kill.err
grep -q 'its tracker died, it was asked to suspend, and goes on' kill-suspended.err
echo "SHOW killed: the guard switches log-dirty off, and resumes the guest"
slow crash 16MiB
xl sysrq saved c
ended crash suspend-other
[ "$(xen-ports $domain state)" = off ]
xl destroy saved
rm -f $(console saved)
VCPUS=2 shared saved 128 128 "memory=12:500"
says saved 'MEMORY ok' 60
stalled destroy
suspended
xl destroy saved
touch go
ended destroy domain-gone
