# SPDX-License-Identifier: MIT OR Apache-2.0
# Functions for the cases. `sh -e lib.sh CASE` runs one in the current directory: it passes if it
# exits with 0. A line that begins with SHOW is evidence and goes into the summary.
export PATH=/usr/sbin:/usr/bin:/bin:/sbin

guest() { # NAME MIB MAX_MIB "WORDS FOR ITS COMMAND LINE" [XL-CREATE OPTIONS]: makes it, and waits until it is up
    cat >/root/$1.cfg <<END
name="$1"
type="pv"
kernel="${KERNEL:-/host/kernel}"
${KERNEL:+#}ramdisk="/host/guest.cpio.gz"
memory=$2
maxmem=$3
vcpus=${VCPUS:-1}
extra="console=hvc0 loglevel=4 panic=1 sysrq_always_enabled=1 memhp_default_state=online $4"
on_crash="preserve"
on_reboot="destroy"
on_poweroff="destroy"
END
    xl create -q $5 /root/$1.cfg
    domain=$(xl domid $1)
}

shared() { # NAME MIB MAX_MIB "WORDS": the same, but reuses a running guest of that name
    if domain=$(xl domid $1 2>/dev/null); then return; fi
    guest "$@"
    says $1 'GUEST up' 60
}

granted() { # MIB "WORDS": guest g, which maps 24 pages of this domain
    # Grants come first, so the guest's domid must be known before it exists.
    guest probe 128 128 "" -p
    next=$((domain + 1))
    xl destroy probe
    grant $next 24 >refs &
    sleep 1
    guest g $1 $1 "$2 grants=0:$(cat refs)"
    [ $domain = $next ]
    says g 'GRANTS mapped' 60
}

target() { # NAME MIB: sets the balloon target
    xenstore-write /local/domain/$(xl domid $1)/memory/target $(($2 * 1024))
}

console() { echo /var/log/xen/console/guest-$1.log; }

says() { # NAME PATTERN SECONDS: waits until the guest's console has it
    turn=0
    until grep -q "$2" $(console $1) 2>/dev/null; do
        [ $turn -lt $(($3 * 10)) ] || { echo "guest $1 does not say '$2'"; tail -n 5 $(console $1); return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
}

field() { # FILE KEY: the last number of that name in the last line
    tail -n 1 $1 | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"
}

track() { # FILE OPTIONS...: the engine on $domain; its lines go to FILE
    file=$1
    shift
    p2mtrack track $domain --json --check "$@" >$file || {
        code=$?
        [ $code != 1 ] || show $file || true # a missed change: show how many
        return $code
    }
}

show() { # FILE: what a run found, and that nothing was missed
    echo "SHOW $1: rounds $(field $1 rounds) leaves_dirty $(field $1 leaves_dirty) leaves_new $(field $1 leaves_new)" \
        "entries_changed $(field $1 entries_changed) beyond_log_dirty $(field $1 beyond_log_dirty)" \
        "structure_events $(field $1 structure_events) missed $(field $1 missed) unchecked $(field $1 unchecked)"
    [ "$(field $1 missed)" = 0 ] && [ $((4 * $(field $1 unchecked))) -le "$(field $1 rounds)" ]
}

some() { # FILE KEY: the number is not 0
    [ "$(field $1 $2)" -gt 0 ] || { echo "$1: no $2"; return 1; }
}

fails() { # COMMAND...: it must not succeed ("set -e" ignores the status of a command after "!")
    if "$@"; then
        echo "succeeds: $*"
        return 1
    fi
}

running() { # WORDS: processes with these words on their command line
    ps -o pid,args | grep "$*" | grep -v grep | awk '{print $1}'
}

is_off() { # log-dirty of $domain is off and not claimed: a tracker may begin, and finds nothing to clean up
    p2mtrack track $domain --rounds 0 --json >off.json 2>off.err || { cat off.err; return 1; }
    fails grep . off.err && [ -z "$(ls /run/p2mtrack)" ] && [ "$(xen-ports $domain state)" = off ]
}

checks() { grep -c 'MEMORY ok' $(console $1) || true; } # NAME: how often its memory was right

goes_on() { # NAME: its memory is checked twice more, and nothing was ever wrong
    before=$(checks $1) turn=0
    until [ $(checks $1) -ge $((before + 2)) ]; do
        [ $turn -lt 900 ] || { echo "guest $1 does not go on"; tail -n 5 $(console $1); return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
    fails grep -E '(MEMORY|FPU) BAD' $(console $1)
}

holds() { # NAME KIB: its frames come to that target
    target $1 $(($2 / 1024))
    turn=0
    until [ $(($(xen-ports $(xl domid $1) frames) * 4 - $2)) -le 1024 ] &&
        [ $(($2 - $(xen-ports $(xl domid $1) frames) * 4)) -le 1024 ]; do
        [ $turn -lt 300 ] || { echo "guest $1 holds $(xen-ports $(xl domid $1) frames) frames, not $2 KiB"; return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
}

balloons() { # NAME MIB: down and up again
    holds $1 $((($2 - 12) * 1024))
    holds $1 $(($2 * 1024))
}

swings() { # NAME: its own balloon goes down and up, by 8 MiB at least
    id=$(xl domid $1)
    low=$(xen-ports $id frames) down='' up='' turn=0
    high=$low
    until [ -n "$down" ] && [ -n "$up" ]; do
        [ $turn -lt 600 ] || { echo "guest $1 holds between $low and $high frames"; return 1; }
        frames=$(xen-ports $id frames)
        [ $frames -gt $((high - 2048)) ] || down=yes
        [ $frames -lt $((low + 2048)) ] || up=yes
        [ $frames -ge $low ] || low=$frames
        [ $frames -le $high ] || high=$frames
        sleep 0.1
        turn=$((turn + 1))
    done
}

restored() { # NAME FILE: its source is gone, and the stock restore makes it again
    p2mtrack stream check $2 >$2.check || { head $2.check; return 1; }
    xl restore $2
    domain=$(xl domid $1)
    goes_on $1
}

. /host/cases/$1.sh
