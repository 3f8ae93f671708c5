# SPDX-License-Identifier: MIT OR Apache-2.0
# Fifty saves that are ended at a random moment, by TERM or by KILL, live or not: each time the
# source runs on, log-dirty is off, and no process is left. Not among the cases that are run by
# default.
VCPUS=2 shared saved 128 128 "memory=12:500"
says saved 'MEMORY ok' 60
cuts=0 cut=0
while [ $cuts -lt 50 ]; do
    cuts=$((cuts + 1))
    random=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
    live='' signal=TERM
    [ $((random % 3)) = 0 ] || live=--live
    [ $((random / 3 % 2)) = 0 ] || signal=KILL
    pause=$((random / 6 % 30))
    echo "cut $cuts: $live $signal after $pause tenths of a second"
    p2mtrack save $domain $live --out cut.xl --report cuts.json >/dev/null 2>cut.err &
    saver=$!
    usleep $((pause * 100000))
    if kill -$signal $saver 2>/dev/null; then cut=$((cut + 1)); fi
    status=0
    wait $saver || status=$?
    case $signal.$status in
    TERM.0 | TERM.2 | TERM.3 | TERM.143 | KILL.0 | KILL.137) ;; # 2, 143: before anything was touched
    *) echo "status $status"; cat cut.err; exit 1 ;;
    esac
    [ $status != 0 ] || rm cut.xl
    [ ! -e cut.xl ]
    quiet=0
    until [ -z "$(running p2mtrack)" ]; do # its guard
        [ $quiet -lt 1500 ] # a guest that has taken a request is waited for
        sleep 0.1
        quiet=$((quiet + 1))
    done
    goes_on saved
    is_off
done
echo "SHOW cuts: $cut of 50 saves were cut"
