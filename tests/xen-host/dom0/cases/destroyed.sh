# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest is destroyed while it is tracked: a named error, no panic, and nothing of it is left.
for pause in 0 300; do
    guest g 192 192 "memory=48:1000 churn=49152:0:4096:20000"
    says g 'GUEST churns' 60
    status=0
    (sleep 2.5 && xl destroy g) &
    track destroyed-$pause.json --seconds 20 --interval $pause 2>destroyed-$pause.err || status=$?
    cat destroyed-$pause.err
    [ $status = 3 ]
    grep -q "domain $domain" destroyed-$pause.err
    fails grep -q panicked destroyed-$pause.err
    sleep 1
    fails xl domid g
    [ -z "$(ls /run/p2mtrack)" ]
    [ -z "$(running p2mtrack)" ]
    rm -f $(console g)
done
echo "SHOW $(cat destroyed-300.err)"
