# SPDX-License-Identifier: MIT OR Apache-2.0
# Fifty migrations and saves under xl that are ended at a random moment: the helper by TERM or KILL,
# xl by INT, TERM or KILL, the receiver by KILL. Each time the source runs on, log-dirty is off, no
# process is left. Not among the cases that are run by default.
VCPUS=2 shared moved 128 128 "memory=12:500"
says moved 'MEMORY ok' 60
cuts=0 cut=0
while [ $cuts -lt 50 ]; do
    cuts=$((cuts + 1))
    random=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
    case $((random % 3)) in
    0) helped cut '' xl save -c moved cut.xl & ;;
    *) helped cut '--rate 64MiB' xl migrate -s "" moved /host/receive & ;;
    esac
    started=$!
    pause=$((random / 3 % 30))
    usleep $((pause * 100000))
    case $((random / 90 % 6)) in
    0) who='save-helper --save-domain' signal=TERM ;;
    1) who='save-helper --save-domain' signal=KILL ;;
    2) who='xl migrate -s' signal=TERM ;;
    3) who='xl save' signal=KILL ;;
    4) who='xl migrate -s' signal=KILL ;;
    5) who='libxl-save-helper' signal=KILL ;;
    esac
    victims=$(running "$who")
    echo "cut $cuts: $signal for '$who' ($victims) after $pause tenths of a second"
    [ -z "$victims" ] || { kill -$signal $victims 2>/dev/null && cut=$((cut + 1)) || true; }
    wait $started || true
    quiet=0
    until [ -z "$(running save-helper)" ] && [ -z "$(running 'xl migrate')" ] && [ -z "$(running 'xl save')" ]; do
        [ $quiet -lt 1500 ] || { ps -o pid,args | grep -E 'xl|helper'; exit 1; }
        sleep 0.1
        quiet=$((quiet + 1))
    done
    rm -f cut.xl
    # A migration that was not cut has moved the guest; one whose xl was killed at its very end has two names.
    if [ "$(xl domid moved)" != $domain ]; then
        domain=$(xl domid moved)
        touch /root/moved.moved
        xl mem-max moved 192
    fi
    for left in $(xl list | awk '/incoming/ {print $1}'); do xl destroy $left; done
    goes_on moved
    is_off
done
echo "SHOW cuts: $cut of 50 were cut"
helped crash '--rate 16MiB' xl migrate -s "" moved /host/receive &
sleep 3
xl sysrq moved c
fails wait $!
tail -n 1 crash.json | grep '"kind":"suspend-other"'
[ "$(xen-ports $domain state)" = off ]
echo "SHOW crash: suspend-other"
