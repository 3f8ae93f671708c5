# SPDX-License-Identifier: MIT OR Apache-2.0
# The tracker is killed, its guard is killed, both are killed: the state of log-dirty afterwards,
# and the next run.
shared idle 192 192 ""
guards() { running p2mtrack guard; }
begin() { # starts a tracker; log-dirty is on then
    p2mtrack track $domain --json --interval 200 >run.json 2>run.err &
    tracker=$!
    sleep 2
    guard=$(guards)
    [ -n "$guard" ]
    [ "$(xen-ports $domain state)" = on ]
}
for signal in KILL ABRT; do
    begin
    kill -$signal $tracker
    wait $tracker || true
    sleep 1
    cat run.err
    [ "$(xen-ports $domain state)" = off ] || { echo "LEFT ON"; exit 1; }
    [ -z "$(guards)" ]
    grep -q 'its tracker died, log-dirty is switched off' run.err
    is_off
done
begin
kill -TERM $tracker
wait $tracker # exits with status 0
fails grep . run.err
tail -n 1 run.json | grep -q '"event":"track"'
[ -z "$(guards)" ]
is_off
echo "SHOW tracker killed: its guard switches log-dirty off"
begin
kill -KILL $guard
sleep 2
[ -n "$(guards)" ]
grep -q 'a new one is started' run.err
kill -INT $tracker
wait $tracker
is_off
begin # the new guard works as well
kill -KILL $guard
sleep 2
kill -KILL $tracker
wait $tracker || true
sleep 1
grep -q 'its tracker died, log-dirty is switched off' run.err
is_off
echo "SHOW guard killed: a new one is started, the run ends well"
begin
kill -KILL $guard $tracker
wait $tracker || true
status=0
p2mtrack track $domain --rounds 2 --json >next.json 2>next.err || status=$?
cat next.err
[ $status = 0 ]
grep -q 'log-dirty was left on, and is now off' next.err
is_off
echo "SHOW both killed: $(cat next.err)"
