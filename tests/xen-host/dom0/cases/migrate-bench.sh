# SPDX-License-Identifier: MIT OR Apache-2.0
# Our helper beside the stock one: by the same observer, in turn, with the same policy; medians of five
# migrations of a guest that hardly writes, and of one that writes. Not among the cases that are run by
# default.
once() { # GUEST WHO
    rm -f once.json
    (
        [ $2 = stock ] || export P2MTRACK_STOCK_HELPER=/host/ours
        helped once --observe xl migrate -s "" $1 /host/receive
    )
    grep '"side":"save"' once.json >>$1-$2.json
    touch /root/$1.moved
    goes_on $1
}
median() { # FILE KEY
    sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p" $1 | sort -n | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'
}
for load in idle:memory=8:0 writer:memory=40:1000; do
    name=${load%%:*}
    guest $name 512 512 "${load#*:}"
    says $name 'MEMORY ok' 60
    for turn_number in 1 2 3 4 5; do
        once $name stock
        once $name ours
    done
    for key in downtime_us total_us cpu_us bytes; do
        ours=$(median $name-ours.json $key) stock=$(median $name-stock.json $key)
        echo "SHOW $name: $key ours $ours stock $stock ratio $((ours * 100 / stock)) %"
    done
    xl destroy $name
    /host/forget $name
done
