# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that writes its memory: the cost of tracking, by the guest's count of pages verified in a
# second.
speed() { # FROM-LINE: median of the counts since that line
    grep 'MEMORY ok' $(console g) | tail -n +$(($1 + 2)) | sed 's/.*ok \([0-9]*\) us \([0-9]*\).*/\1 \2/' |
        awk '{print int($1 * 1000000 / $2)}' | sort -n | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'
}
lines() { grep -c 'MEMORY ok' $(console g); }
guest g 192 192 "memory=48:1000"
says g 'MEMORY ok' 60
before=$(lines)
sleep 5
without=$(speed $before)
before=$(lines)
# Without --check, which reads the whole p2m each time and is no part of tracking.
p2mtrack track $domain --json --seconds 5 --interval 500 >cost.json
with=$(speed $before)
track writer.json --rounds 12 --interval 250
show writer.json
some writer.json log_dirty_pfns
echo "SHOW pages verified in a second: $without without, $with with a round each 500 ms"
echo "SHOW round_us $(tail -n 1 cost.json | sed 's/.*"round_us":\({[^}]*}\).*"phase_us":\(.*\)}$/\1 phase_us \2/')"
is_off
