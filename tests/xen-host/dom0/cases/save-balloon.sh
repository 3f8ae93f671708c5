# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest whose balloon goes down and up all the time is saved while it runs; what was saved goes on
# churning: its balloon works both ways. Its stream is taken out of the host, for Xen's own verifier.
guest g 128 128 "memory=16:500 churn=32768:0:1024:10000"
says g 'GUEST churns' 60
p2mtrack save $domain --live --after destroy --out g.xl --json >save.json 2>save.err || { cat save.json save.err; exit 1; }
fails grep . save.err
restored g g.xl
swings g
is_off
echo "SHOW balloon: rounds $(field save.json rounds) pages $(field save.json pages) gone $(field save.json gone) \
leaked $(field save.json leaked_pfns) estimate_us $(field save.json estimate_us) downtime_us $(field save.json downtime_us)"
