# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest is saved while it runs, and destroyed; what was saved goes on. Then the same through a pipe,
# and the source is left suspended.
VCPUS=2 shared saved 128 128 "memory=12:500"
says saved 'MEMORY ok' 60
p2mtrack save $domain --live --after destroy --out live.xl --report all.json --json >save.json 2>save.err ||
    { cat save.json save.err; exit 1; }
fails grep . save.err
tail -n 1 save.json | grep -q '"event":"saved".*"live":true.*"source_running":false,"error":null'
[ "$(tail -n 1 save.json)" = "$(cat all.json)" ]
fails xl domid saved
[ -z "$(ls /run/p2mtrack)" ]
[ -z "$(running p2mtrack)" ]
restored saved live.xl
balloons saved 128
# It has another name than at its creation, and one vcpu less.
xl vcpu-set saved 1
turn=0
until xl vcpu-list saved | grep -q -- '--p'; do
    [ $turn -lt 300 ] || { xl vcpu-list saved; exit 1; }
    sleep 0.1
    turn=$((turn + 1))
done
xl rename saved renamed
p2mtrack save $domain --live --after leave --out - --report pipe.json 2>pipe.err | cat >pipe.xl
cat pipe.err
grep -q '"source_running":false,"error":null' pipe.json
head -c 4096 pipe.xl | grep -q '"name":"renamed"'
xl list renamed | grep -q -- ' ---s'
[ "$(xen-ports $domain state)" = off ]
xl destroy renamed
p2mtrack stream check pipe.xl
xl restore /root/saved.cfg pipe.xl
domain=$(xl domid saved)
goes_on saved
is_off
for file in save.json; do
    echo "SHOW live: rounds $(field $file rounds) pages $(field $file pages) tables $(field $file tables) \
suspended $(field $file suspended_pages) estimate_us $(field $file estimate_us) downtime_us $(field $file downtime_us)"
done
rm pipe.xl live.xl
