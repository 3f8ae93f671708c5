# SPDX-License-Identifier: MIT OR Apache-2.0
# Twenty live saves of guests that balloon, grow, publish only the tree or only the list, fork, or
# map pages of another domain; each is restored by the stock restore and goes on. Not among the
# cases that are run by default.
save() { # LOAD OPTIONS: guest g is saved while it runs, and goes on in its place
    p2mtrack save $domain --live --after destroy --out $1.xl --report loads.json $2 >$1.out 2>$1.err ||
        { cat $1.out $1.err; return 1; }
    restored g $1.xl
    [ "$(xen-ports $domain state)" = off ]
    echo "SHOW $1: $(tail -n 1 loads.json | sed 's/.*"verdict":"\([^"]*\)","rounds":\([0-9]*\),"pages":\([0-9]*\).*"leaked_pfns":\([0-9]*\).*"downtime_us":\([0-9]*\).*/\1, rounds \2, pages \3, leaked \4, downtime_us \5/')"
    xl destroy g
    rm -f $1.xl $(console g)
}
times=0
while [ $times -lt 4 ]; do
    times=$((times + 1))
    guest g 160 160 "memory=12:500 churn=32768:0:1024:10000"
    says g 'GUEST churns' 60
    save balloon
    guest g 160 160 "memory=12:500 churn=32768:0:4096:20000" -p
    flavour $domain linear
    xl unpause g
    says g 'GUEST churns' 60
    save linear
    guest g 160 160 "memory=12:500"
    says g 'MEMORY ok' 60
    flavour $domain tree
    (for mib in 144 130 150 160; do sleep 0.5; target g $mib; done) &
    save tree "--rate 32MiB"
    guest g 128 128 "memory=12:500 forks"
    says g 'MEMORY ok' 60
    save forks
    if [ $((times % 2)) = 0 ]; then
        guest g 128 128 "memory=12:500"
        says g 'MEMORY ok' 60
        xl mem-max g 320
        # The target is in the stream's configuration, which comes first: what grows past it while
        # the guest is saved, no stock receiver can hold.
        target g 288
        save growth "--rate 64MiB"
    else
        # A guest that maps foreign frames: their pfns have no frame of their own.
        granted 128 "memory=12:500"
        save grants
    fi
done
