# SPDX-License-Identifier: MIT OR Apache-2.0
# Migrations and saves that are cut. The source runs on where it exists, log-dirty is off, no process is
# left, xl has ended at both ends, and each cut has its kind.
VCPUS=2 shared moved 128 128 "memory=12:500"
says moved 'MEMORY ok' 60
domain=$(xl domid moved)
mkfifo stall
helper() { running 'save-helper --save-domain'; }
on() { # log-dirty is: the first copy has begun
    turn=0
    until grep -q log-dirty /run/p2mtrack/* 2>/dev/null; do
        [ $turn -lt 300 ]
        sleep 0.1
        turn=$((turn + 1))
    done
}
suspended() {
    turn=0
    until xl list $domain | grep -q -- ' ---s'; do
        [ $turn -lt 600 ] || { echo "not suspended"; return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
}
live() { # NAME: a migrate that takes its time
    name=$1
    helped $name '--rate 16MiB' xl -v migrate -s "" moved /host/receive &
    xl=$!
    on
}
stalled() { # NAME: a save of the suspended guest, into a pipe that nobody empties
    name=$1
    rm -f go
    (exec 3<stall && until [ -e go ]; do sleep 0.1; done) &
    reader=$!
    helped $name '' setsid xl save moved stall &
    xl=$!
    suspended
}
ended() { # KIND
    turn=0
    until [ -z "$(running save-helper)" ] && [ -z "$(running 'xl .*migrate')" ] && [ -z "$(running 'xl save')" ]; do
        [ $turn -lt 200 ] || { ps -o pid,args | grep -E 'xl|helper'; return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
    status=0
    wait $xl || status=$?
    [ $status != 0 ]
    [ -z "$1" ] || grep "\"kind\":\"$1\"" $name.json || { cat $name.json; return 1; }
    [ -z "$(ls /run/p2mtrack)" ]
    [ "$(xen-ports $domain state)" = off ]
    [ -z "$(xl list | grep incoming)" ]
    kill $reader 2>/dev/null || true
    echo "SHOW $name: ${1:-killed}"
}
runs() {
    goes_on moved
    is_off
}
reader=
live receiver
killall -KILL libxl-save-helper
ended sink
live term
kill -TERM $(helper)
ended cancelled
live kill
guard=$(running 'save-helper --guard') # has no descriptor of the stream: a receiver would wait for it
[ -n "$guard" ]
ls -l /proc/$guard/fd >fds
fails grep -E 'pipe:' fds
kill -KILL $(helper)
ended ''
runs
mkdir -p small
mount -t tmpfs -o size=8m small small
name=full
helped full '' xl save moved small/moved.xl &
xl=$!
ended sink
umount small
stalled closed
kill $reader
ended sink
# As from a terminal that is closed: INT is ignored in a background job of this shell.
stalled interrupted
kill -HUP -$(running 'xl save')
ended 'cancelled\|toolstack-gone'
[ $status = 129 ] # xl died of it
runs
xen-libxl $domain dies
