# SPDX-License-Identifier: MIT OR Apache-2.0
# The machine meets the requirements, and the doctor describes it.
shared idle 192 192 ""
p2mtrack doctor --domain $domain --guest-size 64GiB
p2mtrack doctor --domain $domain --guest-size 64GiB --json >doctor.json
[ "$(field doctor.json bad)" = 0 ]
grep -q '"name":"domctl","state":"good"' doctor.json
grep -q '"name":"shadow-paging","state":"good"' doctor.json
grep -q '"name":"m2p","state":"good"' doctor.json
echo "SHOW $(sed -n 's/.*"name":"xen".*"found":"\([^"]*\)".*/\1/p' doctor.json)," \
    "$(sed -n 's/.*"name":"domctl".*"found":"\([^"]*\)".*/\1/p' doctor.json)," \
    "$(sed -n 's/.*"name":"simd".*"found":"\([^"]*\)".*/\1/p' doctor.json)"
# A guest too large for this domain's memory is reported.
fails p2mtrack doctor --guest-size 16TiB >large.txt
grep -q dom0_mem large.txt
