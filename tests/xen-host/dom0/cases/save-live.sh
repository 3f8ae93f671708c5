# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest is saved while it runs, and destroyed; what was saved goes on. Then the same through a pipe,
# and the source is left suspended.
shared saved 128 128 "memory=12:500"
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
p2mtrack save $domain --live --after leave --out - 2>pipe.err | cat >pipe.xl
cat pipe.err
xl destroy saved
restored saved pipe.xl
is_off
for file in save.json; do
    echo "SHOW live: rounds $(field $file rounds) pages $(field $file pages) tables $(field $file tables) \
suspended $(field $file suspended_pages) estimate_us $(field $file estimate_us) downtime_us $(field $file downtime_us)"
done
rm pipe.xl live.xl
