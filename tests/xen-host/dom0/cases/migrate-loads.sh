# SPDX-License-Identifier: MIT OR Apache-2.0
# Forty live migrations: eight loads, five times each; each guest is new. Not among the cases that are
# run by default.
one() { # LOAD OPTIONS: guest g is migrated, and goes on
    migrate g "$2"
    arrived g 512
    sed 's/^/'$1' /' g.json | tail -n 1 >>loads.json
    xl destroy g
    /host/forget g
}
swing() { for less in 18 0 25 0; do sleep 1; target g $((128 - less)); done; }
times=0
while [ $times -lt 5 ]; do
    times=$((times + 1))
    guest g 128 128 "memory=8:0"
    says g 'MEMORY ok' 60
    one idle
    VCPUS=2 guest g 160 160 "memory=48:1000"
    says g 'MEMORY ok' 60
    one writer
    guest g 128 128 "memory=12:500 churn=32768:0:1024:10000"
    says g 'GUEST churns' 60
    one balloon
    guest g 128 128 "memory=12:500"
    says g 'MEMORY ok' 60
    xl pause g
    xl mem-max g 256
    target g 224
    (sleep 2; xl unpause g) &
    one growth '--rate 32MiB'
    guest g 128 128 "memory=12:500"
    says g 'MEMORY ok' 60
    flavour $domain tree
    swing &
    one tree '--rate 32MiB'
    wait $! || true
    guest g 128 128 "memory=12:500" -p
    flavour $domain linear
    xl unpause g
    says g 'MEMORY ok' 60
    swing &
    one linear '--rate 32MiB'
    wait $! || true
    guest g 128 128 "memory=12:500 forks"
    says g 'MEMORY ok' 60
    one tables
    granted 128 "memory=12:500"
    (sleep 2; tells g release) &
    one grants '--rate 32MiB'
done
for load in idle writer balloon growth tree linear tables grants; do
    echo "SHOW $load: $(grep "^$load " loads.json | wc -l) good, pages $(grep "^$load " loads.json | sed 's/.*"pages":\([0-9]*\).*/\1/' |
        sort -n | sed -n 3p), suspended $(grep "^$load " loads.json | sed 's/.*"suspended_pages":\([0-9]*\).*/\1/' |
        sort -n | sed -n 3p), leaked at most $(grep "^$load " loads.json | sed 's/.*"leaked_pfns":\([0-9]*\).*/\1/' |
        sort -n | tail -n 1), downtime_us $(grep "^$load " loads.json | sed 's/.*"downtime_us":\([0-9]*\).*/\1/' |
        sort -n | sed -n 3p)"
done
