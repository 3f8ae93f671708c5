# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest is suspended, saved, and goes on; then what was saved goes on in its place. Its stream is
# taken out of the host, for Xen's own verifier.
VCPUS=2 shared saved 128 128 "memory=12:500"
says saved 'MEMORY ok' 60
p2mtrack save $domain --out cold.xl --json >save.json 2>save.err || { cat save.json save.err; exit 1; }
fails grep . save.err
tail -n 1 save.json | grep -q '"verdict":"not-live".*"source_running":true,"error":null'
goes_on saved
is_off
xl destroy saved
restored saved cold.xl
balloons saved 128
echo "SHOW cold: pages $(field save.json pages) tables $(field save.json tables) downtime_us $(field save.json downtime_us) \
leaked $(field save.json leaked_pfns)"
